# shellcheck shell=bash
# The certificates of the tests beside this file.

# lay_certificates FOLDER: a CA of its own, and under it a certificate for upstream.test
lay_certificates() {
  mkdir -p "$1"
  ( cd "$1"
    key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    # shellcheck disable=SC2086
    { openssl req -x509 $key -days 2 -keyout ca.key -out ca.pem -subj "/CN=test CA"
      openssl req $key -keyout server.key -out server.csr -subj "/CN=upstream.test"
      openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem \
        -extfile <(printf 'subjectAltName=DNS:upstream.test')
    } >/dev/null 2>&1
    chmod 644 ./* )
}
