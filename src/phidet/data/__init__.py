"""Labelled images as people have them: COCO JSON, Pascal VOC, YOLO, TFRecord. Nothing here needs PyTorch."""
