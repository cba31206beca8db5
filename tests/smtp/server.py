"""A mail server for tests, by aiosmtpd: takes what it is sent and writes it down, or answers as it is told.

usage: server.py FOLDER PORT IMPLICIT_PORT, in FOLDER server.pem and server.key. At PORT it wants STARTTLS, at IMPLICIT_PORT it
speaks TLS from the first byte on; at both the user `tonnage` with the password `right`.

FOLDER/answers.json says what is answered in place of 250: to the word DATA, and to recipients. Each message is a line of
FOLDER/taken.jsonl. The file FOLDER/ready is there once it listens.
"""

import asyncio
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

folder = pathlib.Path(sys.argv[1])
ports = [int(port) for port in sys.argv[2:4]]


def answer(word):
    try:
        return json.loads((folder / "answers.json").read_text()).get(word, "250 OK")
    except FileNotFoundError:
        return "250 OK"


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        said = answer(address)
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server, session, envelope):
        said = answer("DATA")
        if said.startswith("250"):
            message = {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "tls": server.transport.get_extra_info("ssl_object") is not None,
                "user": session.auth_data.login.decode() if session.auth_data else None,
                "data": envelope.original_content.decode(),
            }
            with (folder / "taken.jsonl").open("a") as taken:
                taken.write(json.dumps(message) + "\n")
        return said


def authenticate(server, session, envelope, mechanism, given):
    good = (given.login, given.password) == (b"tonnage", b"right")
    return AuthResult(success=good, handled=False, auth_data=given)


async def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    by_command = {"tls_context": context, "require_starttls": True}
    # It does not see that its connections are under TLS.
    from_the_start = {"auth_require_tls": False}
    loop = asyncio.get_running_loop()
    for port, options, wrapped in [(ports[0], by_command, None), (ports[1], from_the_start, context)]:

        def connection(options=options):
            return SMTP(Handler(), auth_required=True, authenticator=authenticate, **options)

        await loop.create_server(connection, "127.0.0.1", port, ssl=wrapped)
    (folder / "ready").touch()
    await asyncio.Event().wait()


asyncio.run(serve())
