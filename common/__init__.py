"""Foundation of all folders: errors, files, arguments, seeds, work in parallel."""

import getpass
import os

# A container may run as a number that no file knows. torch and W&B ask for its name, and fail where there is none.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())
