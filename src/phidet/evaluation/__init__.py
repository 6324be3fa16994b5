"""Evaluation of detections: metrics, curves, confusion matrices and the mistakes behind them, without PyTorch."""
