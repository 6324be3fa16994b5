"""The server: TensorFlow Serving's REST and the Open Inference Protocol over versioned model folders."""
