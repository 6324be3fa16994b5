"""What TensorFlow Serving's ResNet example does: requests, JSON as a string, the time of ten requests. Arguments:
address, picture file. Prints JSON."""

import base64
import json
import sys

import requests

address, file = sys.argv[1:]
with open(file, "rb") as picture:
    data = base64.b64encode(picture.read()).decode("utf-8")
url = f"http://{address}/v1/models/m:predict"
predict_request = f'{{"instances" : [{{"b64": "{data}"}}]}}'
total_time = 0.0
for _ in range(10):
    response = requests.post(url, data=predict_request)
    response.raise_for_status()
    total_time += response.elapsed.total_seconds()
print(json.dumps({"prediction": response.json()["predictions"][0], "seconds": total_time}))
