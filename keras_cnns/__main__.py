"""Run the commands as `python -m keras_cnns`."""

from keras_cnns.cli import main

main()
