"""What Schemathesis has to be told of this API: how a price book is sent."""

import schemathesis


@schemathesis.serializer("application/toml")
def price_book(context, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
