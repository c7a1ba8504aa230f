"""Shows alice's certificate once, with a traceparent.

    ask.py nginx URL CERTS TRACEPARENT         a browser's request to nginx
    ask.py sidecar SOCKET CERTS TRACEPARENT    nginx's question to the sidecar
"""

import http.client
import pathlib
import socket
import ssl
import sys
import urllib.parse
import urllib.request

kind, place, certs, parent = sys.argv[1:]
certs = pathlib.Path(certs)
if kind == "nginx":
    context = ssl.create_default_context(cafile=certs / "ca.pem")
    context.load_cert_chain(certs / "alice.pem", certs / "alice.key")
    request = urllib.request.Request(place, headers={"traceparent": parent, "Accept": "text/plain"})
    answer = urllib.request.urlopen(request, context=context)
    status, user = answer.status, [line for line in answer.read().decode().splitlines() if line.lower().startswith("remote-user")]
else:

    class Unix(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(place)

    connection = Unix("localhost")
    certificate = urllib.parse.quote((certs / "alice.pem").read_text(), safe="")
    headers = {"traceparent": parent, "Ssl-Client-Cert": certificate, "Ssl-Client-Verify": "SUCCESS", "Host": "localhost"}
    headers |= {"X-Original-URI": "/", "X-Original-Method": "GET"}
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    status, user = answer.status, [f"Remote-User: {answer.headers.get('Remote-User')}"]
print(f"answer:    {status} {' '.join(user)}")
sys.exit(status != 200)
