"""Verilator runner, cocotb benches, bus and memory models."""
