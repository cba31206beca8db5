use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;

/// A CA with one server's and one client's certificate, as files.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self { folder };
        for ca in ["ca", "other-ca"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, ca);
            files.write(&format!("{ca}.pem"), params.self_signed(&key).unwrap().pem());
            let issuer = Issuer::new(params, key);
            for (name, uri) in [("server", None), ("client", Some("spiffe://x/tonnage/c/n"))] {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::new(vec!["ledger".to_owned()]).unwrap();
                params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
                files.write(&format!("{ca}-{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
                files.write(&format!("{ca}-{name}.key"), key.serialize_pem());
            }
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn identity(&self, name: &str) -> IdentityFiles {
        IdentityFiles { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    fn server(&self, require_client_cert: bool) -> Server {
        let files = ServerFiles {
            identity: self.identity("ca-server"),
            client_ca: Some(self.path("ca.pem")),
            require_client_cert,
        };
        Server::new(&files, &files.read().unwrap(), &Clock::system()).unwrap()
    }

    fn client(&self, identity: Option<&str>) -> ClientFiles {
        ClientFiles { ca: self.path("ca.pem"), identity: identity.map(|name| self.identity(name)) }
    }
}

/// What both ends say of one connection.
async fn meet(
    server: Server,
    client: &ClientFiles,
    name: &str,
) -> (Result<ServerStream, String>, Result<ClientStream, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let client = Client::load(client, &Clock::system()).unwrap();
    let (served, connected) = tokio::join!(server.accept(accepted), client.connect(name, tcp));
    (served.map_err(|(e, _)| e.to_string()), connected.map_err(|e| e.to_string()))
}

#[tokio::test]
async fn a_client_is_known_by_its_certificates_uri() {
    let files = Files::new();
    let server = files.server(true);
    let (served, connected) = meet(server.clone(), &files.client(Some("ca-client")), "ledger").await;
    assert!(connected.is_ok());
    let peer = PeerCertificate::of(&served.unwrap()).unwrap();
    assert_eq!(peer.uris(), ["spiffe://x/tonnage/c/n"]);
    assert_eq!(server.trusts(&peer), Ok(()));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_in_only_where_none_is_required() {
    let files = Files::new();
    let (served, _) = meet(files.server(false), &files.client(None), "ledger").await;
    assert!(PeerCertificate::of(&served.unwrap()).is_none());
    let (served, _) = meet(files.server(true), &files.client(None), "ledger").await;
    assert!(served.unwrap_err().contains("shows no certificate"));
}

#[tokio::test]
async fn a_stranger_is_refused_by_either_side_in_plain_words() {
    let files = Files::new();
    let (served, _) = meet(files.server(false), &files.client(Some("other-ca-client")), "ledger").await;
    assert!(served.unwrap_err().contains("a CA that is not trusted here"));
    let other = ClientFiles { ca: files.path("other-ca.pem"), identity: None };
    let (served, connected) = meet(files.server(false), &other, "ledger").await;
    assert!(connected.unwrap_err().contains("a CA that is not trusted here"));
    assert!(served.unwrap_err().contains("refused ours"));
    let (_, connected) = meet(files.server(false), &files.client(None), "another").await;
    let error = connected.unwrap_err();
    assert!(error.contains("not good") && error.contains("another"), "{error}");
}

#[test]
fn each_bad_file_is_named_with_what_is_wrong_and_without_what_is_in_it() {
    let files = Files::new();
    let key = files.text("ca-client.key");
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    // A key whose line breaks were lost on the way through some environment.
    files.write("flat.pem", key.replace('\n', ""));
    files.write("flat.key", key.replace('\n', ""));
    files.write("cut.pem", &files.text("ca-client.pem")[..200]);
    files.write("huge.pem", vec![b'x'; 2 << 20]);
    files.write("rubbish.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (cert, key, says) in [
        ("missing.pem", "ca-client.key", "tls_cert: "),
        ("ca-client.key", "ca-client.key", "holds no certificate"),
        ("cut.pem", "ca-client.key", "damaged"),
        ("rubbish.pem", "ca-client.key", "cannot be read"),
        ("huge.pem", "ca-client.key", "bytes"),
        ("flat.pem", "ca-client.key", "tls_cert: "),
        ("ca-client.pem", "flat.key", "holds no private key"),
        ("ca-client.pem", "ca-client.pem", "holds no private key"),
        ("ca-client.pem", "ca-server.key", "not the key of the certificate"),
    ] {
        let identity = IdentityFiles { cert: files.path(cert), key: files.path(key) };
        let client = ClientFiles { ca: files.path("ca.pem"), identity: Some(identity) };
        let error = Client::load(&client, &Clock::system()).err().unwrap();
        let text = crate::telemetry::chain(&error);
        assert!(text.contains(says), "{cert} {key}: {text}");
        let parts = body.as_bytes().windows(12).map(|part| std::str::from_utf8(part).unwrap());
        assert!(!parts.into_iter().any(|part| text.contains(part)), "the key is repeated: {text}");
        let described = describe(&client, &Clock::system());
        assert_eq!(described.iter().filter(|line| line.is_err()).count(), 1, "{described:?}");
    }
    assert!(describe(&files.client(Some("ca-client")), &Clock::system()).iter().all(Result::is_ok));
}
