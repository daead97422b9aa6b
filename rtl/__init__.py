"""The accelerator in Amaranth, one block a file."""
