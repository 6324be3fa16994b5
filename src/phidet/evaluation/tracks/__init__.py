"""Measures tracks: HOTA, MOTA, IDF1 and the mistakes behind them."""
