"""How fast a detector is on this machine: latency, throughput, stages, memory."""
