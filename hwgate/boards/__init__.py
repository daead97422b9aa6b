"""What an accelerator takes of an FPGA, and how fast it is there: synthesis, timing, routing."""
