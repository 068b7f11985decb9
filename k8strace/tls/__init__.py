"""TLS: the collector's `configtls`, and contexts of OpenSSL that follow their files."""
