"""How good detections are: figures, curves, matrices, and the mistakes behind them. Nothing here needs PyTorch."""
