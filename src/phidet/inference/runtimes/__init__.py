"""Runs exported networks: ONNX Runtime, OpenVINO, or PyTorch where that is installed."""
