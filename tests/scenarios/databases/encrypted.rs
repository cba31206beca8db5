//! TLS to a real PostgreSQL: who is believed, who is refused and in which words, and new certificates under a process that
//! runs.

use std::path::{Path, PathBuf};

use harness::certificates::{Ca, Identity};
use harness::process::tail;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use tonnage_aggregator::store::Location;
use tonnage_aggregator::store::server::TlsFiles;
use tonnage_runtime::telemetry::chain;

/// Whom the server lets in: `client` by a certificate of this common name alone, `secret` by a password over TLS, `safe`
/// over TLS alone, anybody else.
const HBA: &str = "\
hostssl all client 127.0.0.1/32 cert
hostssl all secret 127.0.0.1/32 scram-sha-256
hostnossl all client,secret,safe 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
";
const USERS: &str = "CREATE ROLE client SUPERUSER LOGIN; CREATE ROLE safe SUPERUSER LOGIN;
    CREATE ROLE secret SUPERUSER LOGIN PASSWORD 'xyzzy'";

/// A server that speaks TLS, a CA of its own, and one of its clients.
struct Database {
    server: Server,
    folder: tempfile::TempDir,
    client: Identity,
}

impl Database {
    fn start(more: &[&str]) -> anyhow::Result<Option<Self>> {
        if postgres_server::programs().is_none() {
            println!("SKIPPED: PostgreSQL is not installed");
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let [own, client] = ["server", "client"].map(|name| Identity::within(folder.path(), name));
        let (ca, client_ca) = (Ca::new("ca")?, Ca::new("client-ca")?);
        for (ca, name) in [(&ca, "ca.pem"), (&client_ca, "client-ca.pem"), (&Ca::new("ca")?, "other-ca.pem")]
        {
            ca.write(&folder.path().join(name))?;
        }
        ca.server(&own)?;
        client_ca.client(&client, &[], None)?;
        let text = |path: &Path| std::fs::read_to_string(path);
        let (cert, key) = (text(&own.cert)?, text(&own.key)?);
        let (client_ca, mut settings) = (text(&folder.path().join("client-ca.pem"))?, more.to_vec());
        settings.extend(["ssl=on", "ssl_ca_file=client-ca.pem", "fsync=off"]);
        let files = [
            ("server.crt", &*cert),
            ("server.key", &*key),
            ("client-ca.pem", &*client_ca),
            ("pg_hba.conf", HBA),
        ];
        let server = Server::start_with(&settings, &files)?;
        server.sql(&server.database()?.replace("ledger0", "postgres"), USERS)?;
        Ok(Some(Self { server, folder, client }))
    }

    fn ca(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The URL of a new database, as this user at this host.
    fn url(&self, who: &str, query: &str) -> anyhow::Result<String> {
        Ok(format!("{}?{query}", self.server.database()?.replace("postgres@127.0.0.1", who)))
    }
}

/// Opens a ledger there, or says why not.
fn open(url: &str, ca: Option<PathBuf>, identity: Option<&Identity>) -> Result<(), String> {
    let (cert, key) = identity.map(|own| (own.cert.clone(), own.key.clone())).unzip();
    let location = Location::database(url, true, &TlsFiles { ca, cert, key }).map_err(|e| chain(&e))?;
    let store = location.open().map_err(|e| chain(&e))?;
    let spoken = "SELECT CAST(version AS TEXT) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl";
    let reader = store.reader().map_err(|e| chain(&e))?;
    let version: String = reader.query_row(spoken, [], |row| row.get(0)).map_err(|e| chain(&e))?;
    assert_eq!(version, "TLSv1.3");
    Ok(())
}

#[test]
fn a_database_is_believed_by_its_certificate_and_refused_in_words_that_name_the_setting() -> anyhow::Result<()>
{
    let Some(database) = Database::start(&[])? else { return Ok(()) };
    let [right, wrong] = ["ca.pem", "other-ca.pem"].map(|name| Some(database.ca(name)));
    let here = "safe@127.0.0.1";
    for (who, query, ca) in [
        (here, "sslmode=verify-full", &right),
        (here, "sslmode=verify-ca", &right),
        ("safe@localhost", "sslmode=verify-ca", &right),
        // Nobody said how: it is of a CA that is named, so it has to be of that.
        (here, "", &right),
        (here, "sslmode=require", &None),
        (here, "sslmode=prefer", &None),
        (here, "", &None),
        ("secret:xyzzy@127.0.0.1", "channel_binding=require", &right),
    ] {
        open(&database.url(who, query)?, ca.clone(), None)
            .map_err(|e| anyhow::anyhow!("{who} {query}: {e}"))?;
    }
    for (who, query, ca, says) in [
        (here, "sslmode=verify-full", &wrong, "certificate is of none of database_ca_file ("),
        (here, "sslmode=verify-ca", &wrong, "other-ca.pem"),
        (here, "sslmode=require", &wrong, "database_ca_file"),
        (here, "sslmode=verify-full", &None, "the system's CAs; name its own by database_ca_file"),
        ("safe@localhost", "sslmode=verify-full", &right, "use sslmode=verify-ca"),
        // As if it were on another machine.
        ("safe@db.example", "hostaddr=127.0.0.1", &right, "the default for a database on another machine"),
        (here, "sslmode=disable", &None, "sslmode=disable speaks none"),
        ("client@127.0.0.1", "", &right, "database_cert_file and database_key_file"),
        (here, "", &Some(database.ca("nowhere.pem")), "database_ca_file: "),
        (here, "", &Some(database.client.key.clone()), "holds no certificate"),
    ] {
        let error = open(&database.url(who, query)?, ca.clone(), None).unwrap_err();
        assert!(error.contains(says) && !error.contains("xyzzy"), "{who} {query}: {error}");
    }
    Ok(())
}

#[test]
fn a_database_that_asks_for_a_certificate_is_shown_one() -> anyhow::Result<()> {
    let Some(database) = Database::start(&[])? else { return Ok(()) };
    let ca = Some(database.ca("ca.pem"));
    let url = database.url("client@127.0.0.1", "")?;
    open(&url, ca.clone(), Some(&database.client)).map_err(anyhow::Error::msg)?;
    // The same by the words of the URL.
    let text = |path: &Path| path.display().to_string();
    let Identity { cert, key } = &database.client;
    let files =
        format!("sslrootcert={}&sslcert={}&sslkey={}", text(&database.ca("ca.pem")), text(cert), text(key));
    open(&database.url("client@127.0.0.1", &files)?, None, None).map_err(anyhow::Error::msg)?;
    // Good for this user alone.
    Ca::new("client-ca")?.client(&database.client, &[], None)?;
    let error = open(&url, ca.clone(), Some(&database.client)).unwrap_err();
    assert!(error.contains("fatal alert") || error.contains("handshake"), "{error}");
    std::fs::write(&database.client.key, "no key")?;
    let error = open(&url, ca, Some(&database.client)).unwrap_err();
    assert!(error.contains("database_key_file: ") && error.contains("no private key"), "{error}");
    Ok(())
}

#[test]
fn a_server_without_tls_or_with_an_old_one_is_refused_where_tls_is_asked_for() -> anyhow::Result<()> {
    let Some(old) = Database::start(&["ssl_max_protocol_version=TLSv1.2"])? else { return Ok(()) };
    let error = open(&old.url("safe@127.0.0.1", "sslmode=require")?, None, None).unwrap_err();
    assert!(error.contains("TLS 1.3"), "{error}");
    let plain = Server::start(&["fsync=off"])?;
    let url = plain.database()?;
    for query in ["sslmode=require", "sslmode=verify-full"] {
        let error = open(&format!("{url}?{query}"), None, None).unwrap_err();
        assert!(error.contains(query) && error.contains("ssl = on"), "{error}");
    }
    let far = url.replace("127.0.0.1", "db.example") + "?hostaddr=127.0.0.1";
    let error = open(&far, None, None).unwrap_err();
    assert!(error.contains("the default for a database on another machine"), "{error}");
    for query in ["", "sslmode=prefer", "sslmode=disable"] {
        Location::database(&format!("{url}?{query}"), false, &TlsFiles::default())?.open()?;
    }
    Ok(())
}

#[test]
fn an_aggregator_takes_new_certificates_with_its_next_connection() -> anyhow::Result<()> {
    let Some(database) = Database::start(&[])? else { return Ok(()) };
    let mut world = World::new(1)?;
    world.aggregator.database = Some(database.url("client@127.0.0.1", "")?);
    let Identity { cert, key } = &database.client;
    let text = |path: &Path| path.display().to_string();
    world.aggregator.extra_args.extend(
        ["--database-ca-file", &text(&database.ca("ca.pem")), "--database-cert-file", &text(cert)]
            .map(str::to_owned),
    );
    world.aggregator.extra_args.extend(["--database-key-file".to_owned(), text(key)]);
    world.aggregator.start(DEADLINE)?;
    let reports = |world: &World| world.aggregator.get("/api/v1/nodes").map(|(status, _)| status);
    assert_eq!(reports(&world)?, 200);
    // Others' key beside our certificate: no new connection comes about, and it is said why.
    let good = std::fs::read(key)?;
    let another = Identity::within(database.folder.path(), "another");
    Ca::new("another")?.client(&another, &[], None)?;
    std::fs::copy(&another.key, key)?;
    database.server.kill9()?;
    database.server.run()?;
    wait_until(
        DEADLINE,
        "a word about the key",
        || tail(&world.aggregator.log()),
        || {
            let failed = reports(&world)? != 200;
            let said = std::fs::read_to_string(world.aggregator.log())?.contains("database_key_file: ");
            Ok((failed && said).then_some(()))
        },
    )?;
    std::fs::write(key, good)?;
    wait_until(DEADLINE, "answers", String::new, || Ok((reports(&world)? == 200).then_some(())))
}
