#!/bin/sh
# Asks a release agent for a release and follows it to its end, with nothing but curl and ssh-keygen. The exit codes are those of agentctl.
#
#   AGENT_URL=https://web1.example.org:8443 APP=shop KEY_FILE=key sh release.sh refs/heads/main COMMIT
#
# KEY_FILE   an OpenSSH private key (ssh-keygen -t ed25519) that the agent knows; or, instead of it:
# ID_TOKEN   what the CI gives its job to prove who it is (see keyless-ci.md)
#            in GitHub Actions neither: the job asks for a token that is good for this request alone
# AGENT_HOST what the agent calls its host, when that is not the host of AGENT_URL
# CA         a file with the certificate to be trusted, when it is not one that the whole world trusts
set -eu
umask 077
whole() { case $1 in '' | /*) printf %s "$1" ;; *) printf '%s/%s' "$PWD" "$1" ;; esac; }
KEY_FILE=$(whole "${KEY_FILE:-}") CA=$(whole "${CA:-}") ISSUER_CA=$(whole "${ISSUER_CA:-}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM
case $AGENT_URL in https://*) ;; *) echo "release.sh: AGENT_URL must begin with https://" >&2; exit 2 ;; esac
cd "$work"

host=${AGENT_HOST:-$(printf %s "${AGENT_URL#https://}" | sed 's/[:/].*//')}
now=$(date +%s)
nonce=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf '{"v":1,"aud":["%s"],"app":"%s","action":"release","ref":"%s","commit":"%s","iat":%s,"exp":%s,"nonce":"%s"}' \
    "$host" "$APP" "$1" "$2" "$now" "$((now + 300))" "$nonce" >body

if [ -n "${ID_TOKEN:-}" ]; then
    printf 'Authorization: Bearer %s\n' "$ID_TOKEN" >proof
elif [ -z "$KEY_FILE" ] && [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ]; then
    # Its audience names the host and the body.
    printf 'Authorization: Bearer %s\n' "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" >asking
    audience=$host%23sha256%3D$(sha256sum body | cut -d ' ' -f 1)
    curl --silent --show-error --fail --retry 3 ${ISSUER_CA:+--cacert "$ISSUER_CA"} --output answer --header @asking \
        "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$audience" || exit 5
    sed 's/.*"value" *: *"\([^"]*\)".*/Authorization: Bearer \1/' answer >proof
else
    ssh-keygen -q -Y sign -n release-agent.v1 -f "$KEY_FILE" body
    printf 'Agent-Signature: %s\n' "$(grep -v -e ----- body.sig | tr -d '\n')" >proof
fi

# The same bytes are the same request, so it is safe to send them again.
ask() { curl --silent --show-error ${CA:+--cacert "$CA"} "$@"; }
status=$(ask --retry 5 --retry-connrefused --output taken --write-out '%{http_code}' --header @proof \
    --header 'Content-Type: application/vnd.release-agent.request.v1+json' --data-binary @body "$AGENT_URL/v1/requests") || exit 5
case $status in
    200 | 202) ;;
    401 | 403 | 409 | 410 | 412 | 423 | 429) cat taken >&2; exit 4 ;;
    4*) cat taken >&2; exit 2 ;;
    *) cat taken >&2; exit 5 ;;
esac

# Events count from 1 without a gap, so the number of whole lines says where to go on after a connection that broke.
run=$(sed 's/.*"run":\([0-9]*\).*/\1/' taken)
sed 's/.*"token":"\([^"]*\)".*/Authorization: Bearer \1/' taken >follow
: >events
failures=0
until grep -q '"what":"ended"' events; do
    before=$(wc -l <events)
    ask --no-buffer --fail --header @follow "$AGENT_URL/v1/runs/$run/events?after=$((before))" | while IFS= read -r line; do
        # An empty line only says that the agent is still there.
        [ -z "$line" ] || printf '%s\n' "$line" | tee -a events
    done
    [ "$(wc -l <events)" -gt "$before" ] && failures=0 || failures=$((failures + 1))
    [ "$failures" -lt 60 ] || exit 5
    grep -q '"what":"ended"' events || sleep 1
done

case $(sed -n 's/.*"what":"ended".*"outcome":"\([a-z_]*\)".*/\1/p' events) in
    live | done) exit 0 ;;
    failed) exit 1 ;;
    rolled_back) exit 3 ;;
    stuck) exit 6 ;;
    *) exit 7 ;;
esac
