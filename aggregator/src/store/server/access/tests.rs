use super::*;

fn parsed(url: &str) -> Result<Access, String> {
    Access::parse(url, &TlsFiles::default()).map_err(|e| e.to_string())
}

/// What a URL comes to: how TLS is asked for, and what is verified.
fn asked(url: &str) -> (SslMode, Option<Verified>) {
    let access = parsed(url).unwrap();
    (access.config.get_ssl_mode(), access.tls.map(|files| files.verified))
}

#[test]
fn a_database_on_another_machine_has_to_prove_who_it_is_unless_somebody_says_otherwise() {
    let full = (SslMode::Require, Some(Verified::Name));
    for url in [
        "postgres://t@db.example/x",
        "postgresql://t@10.0.0.7/x",
        "postgres://t@localhost,db.example/x",
        "postgres://t@localhost/x?hostaddr=10.0.0.7",
        "postgres://t@localhost.example/x",
        "postgres://t@localhost/x?sslrootcert=/ca.pem",
        "postgres://t@localhost/x?sslrootcert=system",
        "postgres://t@db.example/x?sslmode=verify-full",
    ] {
        assert_eq!(asked(url), full, "{url}");
        assert_eq!(parsed(url).unwrap().exposure(), None, "{url}");
    }
    let prefer = (SslMode::Prefer, Some(Verified::Nothing));
    for url in ["postgres://t@localhost/x", "postgres://t@127.0.0.1/x", "postgres://t@[::1]:5433/x"] {
        assert_eq!(asked(url), prefer, "{url}");
        assert_eq!(parsed(url).unwrap().exposure(), None, "{url}");
    }
    let socket = "postgres://t@%2Frun%2Fpostgresql/x?sslmode=verify-full";
    assert_eq!(asked(socket), (SslMode::Disable, None), "nobody is on the way");
}

#[test]
fn each_mode_is_libpqs_and_what_is_not_safe_is_said() {
    let require = SslMode::Require;
    for (query, asked_for, exposed) in [
        ("sslmode=disable", (SslMode::Disable, None), "read and change"),
        ("sslmode=prefer", (SslMode::Prefer, Some(Verified::Nothing)), "read and change"),
        ("sslmode=require", (require, Some(Verified::Nothing)), "in the database's place"),
        ("sslmode=require&sslrootcert=/ca.pem", (require, Some(Verified::Issuer)), ""),
        ("sslmode=verify-ca&sslrootcert=/ca%20s.pem", (require, Some(Verified::Issuer)), ""),
        ("connect_timeout=3&sslmode=verify-full&application_name=t", (require, Some(Verified::Name)), ""),
    ] {
        let url = format!("postgres://t@db.example/x?{query}");
        assert_eq!(asked(&url), asked_for, "{url}");
        let exposure = parsed(&url).unwrap().exposure().unwrap_or_default();
        assert!(exposure.contains(exposed) && exposure.is_empty() == exposed.is_empty(), "{url}: {exposure}");
    }
    let access = parsed("postgres://t@db/x?sslmode=verify-ca&sslrootcert=/ca%20s.pem").unwrap();
    assert_eq!(access.tls.unwrap().ca, Some("/ca s.pem".into()));
}

#[test]
fn what_does_not_fit_together_is_refused_by_its_name() {
    for (query, says) in [
        ("sslmode=allow", "sslmode=allow is not served; there are disable, prefer"),
        ("sslmode=verify-ca", "database_ca_file"),
        ("sslmode=require&sslrootcert=system", "verify-full"),
        ("sslmode=disable&sslrootcert=/ca.pem", "sslmode=disable with database_ca_file"),
        ("sslmode=prefer&sslcert=/c.pem&sslkey=/c.key", "sslmode=prefer with database_cert_file"),
        ("sslcert=/c.pem", "database_cert_file has no database_key_file"),
        ("sslkey=/c.key", "database_key_file has no database_cert_file"),
        ("sslmode=disable&sslmode=require", "twice"),
        ("sslrootcert=", "sslrootcert"),
        ("sslrootcert=%ff", "not text"),
        ("sslpassword=x", "sslpassword"),
    ] {
        let error = parsed(&format!("postgres://t:s3cret@db.example/x?{query}")).unwrap_err();
        assert!(error.contains(says) && !error.contains("s3cret"), "{query}: {error}");
    }
    let files = TlsFiles { ca: Some("/a.pem".into()), ..TlsFiles::default() };
    let error = Access::parse("postgres://t@db/x?sslrootcert=/b.pem", &files).unwrap_err().to_string();
    assert!(error.contains("not in both places"), "{error}");
    assert!(parsed("host=db dbname=x").unwrap_err().contains("postgres://"));
}
