"""Networks for facial action units: what they are, their weights, and their compiled forms."""

import sys

# OpenVINO's converter and NNCF report every use to a server, through a child process that they wait for,
# unless the package that does it is missing. Nothing leaves the machine unasked: here it is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
