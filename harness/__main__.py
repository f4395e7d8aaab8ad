"""`python -m harness` is `tdprace`."""

from harness.cli.main import script

script()
