"""Benchmarks of a detector on this machine: latency, throughput, stages, memory."""
