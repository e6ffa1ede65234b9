"""Values that several configurations hold."""

import base64

HASH = "sha256:" + "0a" * 32

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
