"""An sshd of our own on the loopback interface, for the tools that come over ssh."""

import os
import pwd
import socket
import subprocess
import time

from processes import Trouble, cpu, tree, wait_until


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Loopback:
    """Its keys and its configuration are in its directory; only the key that was made with it is let in, and only as who runs this."""

    def __init__(self, directory, program):
        directory.mkdir()
        self.port, self.key, self.user = free_port(), directory / "key", pwd.getpwuid(os.geteuid()).pw_name
        for key in (self.key, directory / "host"):
            # What Ruby can sign with in Debian: no Ed25519 without a library more, and neither ECDSA nor RSA in the format of OpenSSH (OpenSSL 3).
            subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-C", "", "-f", key], check=True, stdout=subprocess.DEVNULL)
        config = directory / "sshd_config"
        config.write_text(f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/key.pub\n"
                          "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
                          "PidFile none\nPrintMotd no\nPrintLastLog no\nMaxSessions 50\n")
        if os.geteuid() == 0:
            # Where Debian's sshd keeps who is not logged in yet; its unit makes it.
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.process = subprocess.Popen([program, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=open(directory / "log", "wb"))
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise Trouble(f"sshd does not start:\n{(directory / 'log').read_text()}") from None
                time.sleep(0.05)

    def variables(self):
        return {"SSH_PORT": str(self.port), "SSH_KEY": str(self.key), "SSH_USER": self.user}

    def cpu(self):
        """What the sessions that are over have used, with all that they ran."""
        wait_until("the sessions are over", lambda: len(tree(self.process.pid)) == 1)
        return cpu(self.process.pid, False)

    def close(self):
        self.process.terminate()
        self.process.wait(20)
