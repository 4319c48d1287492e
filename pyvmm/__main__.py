"""`python -m pyvmm`: the command line, for who has its Python and not its directory on the path."""

from pyvmm.cli import main

main()
