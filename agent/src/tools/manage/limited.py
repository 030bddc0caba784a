"""Runs manage.py with connections to PostgreSQL that are told something more: OPTIONS["options"] of the settings goes before PGOPTIONS.

Arguments: path of manage.py, the options, the arguments of manage.py.
"""

import os
import runpy
import sys

from django.db.backends.postgresql.base import DatabaseWrapper

manage, more = sys.argv[1:3]


def limited(self, former=DatabaseWrapper.get_connection_params):
    params = former(self)
    params["options"] = " ".join(filter(None, [params.get("options"), more]))
    return params


DatabaseWrapper.get_connection_params = limited
sys.path[0] = os.path.dirname(manage)
sys.argv = [manage] + sys.argv[3:]
runpy.run_path(manage, run_name="__main__")
