"""`python -m services.cli`: the command line where no script is installed."""

from services.cli.app import main

main()
