#!/usr/bin/env python3
"""Verifies a JWT with PyJWT by a key set, as an application does. One JSON object in (token, keys, audience, issuer), one out."""
import base64
import json
import sys

import jwt

given = json.load(sys.stdin)
keys = jwt.PyJWKSet.from_json(given["keys"])
header = jwt.get_unverified_header(given["token"])
try:
    key = keys[header["kid"]]
    claims = jwt.decode(given["token"], key.key, algorithms=[key.algorithm_name], audience=given["audience"], issuer=given["issuer"],
                        options={"require": ["exp", "iat", "nbf", "sub", "jti", "cnf"]})
    thumbprint = claims["cnf"]["x5t#S256"]
    print(json.dumps({"header": header, "claims": claims,
                      "thumbprint": base64.urlsafe_b64decode(thumbprint + "=" * (-len(thumbprint) % 4)).hex()}))
except jwt.PyJWTError as error:
    print(json.dumps({"error": type(error).__name__}))
