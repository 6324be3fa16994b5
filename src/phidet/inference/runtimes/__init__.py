"""Runtimes for exported networks: ONNX Runtime, OpenVINO, LiteRT, or PyTorch if installed."""
