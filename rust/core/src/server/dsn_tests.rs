use super::*;
use proptest::prelude::*;
use tokio_postgres::config::Host;

const BASE: &str = "postgresql://u:p@db.example:5433/events";

fn ssl(query: &str) -> Result<SslOptions, DsnError> {
    Dsn::parse(&format!("{BASE}?{query}")).map(|dsn| dsn.ssl)
}

fn refusal(text: &str) -> DsnError {
    match Dsn::parse(text) {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    }
}

#[test]
fn every_sslmode_of_libpq_is_known() {
    for (text, mode) in [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
    ] {
        assert_eq!(ssl(&format!("sslmode={text}")).unwrap().mode, mode);
    }
    let full = ssl("sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem").unwrap();
    assert_eq!(full.mode, SslMode::VerifyFull);
    assert_eq!(full.roots, Some(Roots::File("/etc/ca.pem".into())));
    let ca = ssl("sslmode=verify-ca&sslrootcert=/ca").unwrap();
    assert_eq!(ca.mode, SslMode::VerifyCa);
}

#[test]
fn require_with_a_root_certificate_verifies_against_it() {
    let options = ssl("sslmode=require&sslrootcert=/ca").unwrap();
    assert_eq!(options.mode, SslMode::VerifyCa);
}

#[test]
fn system_roots_demand_full_verification() {
    assert_eq!(ssl("sslrootcert=system").unwrap().mode, SslMode::VerifyFull);
    assert_eq!(
        ssl("sslmode=require&sslrootcert=system"),
        Err(DsnError::WeakSystemRoots)
    );
}

#[test]
fn parameters_that_would_weaken_the_connection_are_refused() {
    for name in UNSUPPORTED {
        let refused = ssl(&format!("{name}=x"));
        assert_eq!(refused, Err(DsnError::Unsupported((*name).to_owned())));
    }
}

#[test]
fn versions_of_tls_are_kept_or_refused() {
    let versions = |query: &str| ssl(query).map(|options| options.versions);
    assert_eq!(versions(""), Ok(Versions::Any));
    assert_eq!(
        versions("ssl_min_protocol_version=TLSv1"),
        Ok(Versions::Any)
    );
    assert_eq!(
        versions("ssl_min_protocol_version=TLSv1.3"),
        Ok(Versions::Only13)
    );
    assert_eq!(
        versions("ssl_max_protocol_version=TLSv1.2"),
        Ok(Versions::Only12)
    );
    for query in [
        "ssl_max_protocol_version=TLSv1.1",
        "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "ssl_min_protocol_version=SSLv3",
    ] {
        assert!(versions(query).is_err(), "{query}");
    }
}

#[test]
fn a_certificate_is_kept_back_where_it_shall_not_be_shown() {
    let named = "sslcert=/c.pem&sslkey=/k.pem";
    assert!(ssl(named).unwrap().certificate.is_some());
    let hidden = ssl(&format!("{named}&sslcertmode=disable")).unwrap();
    assert_eq!((hidden.certificate, hidden.key), (None, None));
    assert!(ssl("sslcertmode=require").is_err());
}

#[test]
fn keepalives_are_ours_unless_the_string_says_otherwise() {
    let config = Dsn::parse(BASE).unwrap().config;
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(10));
    assert_eq!(config.get_keepalives_retries(), Some(3));
    assert_eq!(
        config.get_tcp_user_timeout(),
        Some(&Duration::from_secs(30))
    );
    let query = "keepalives=0&keepalives_idle=7&keepalives_count=9&tcp_user_timeout=1500";
    let config = Dsn::parse(&format!("{BASE}?{query}")).unwrap().config;
    assert!(!config.get_keepalives());
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
    assert_eq!(config.get_keepalives_retries(), Some(9));
    assert_eq!(
        config.get_tcp_user_timeout(),
        Some(&Duration::from_millis(1500))
    );
}

#[test]
fn address_and_sockets_reach_the_driver() {
    let dsn = Dsn::parse(BASE).unwrap();
    assert_eq!(dsn.config.get_hosts(), [Host::Tcp("db.example".to_owned())]);
    assert_eq!(dsn.config.get_ports(), [5433]);
    assert_eq!(dsn.config.get_user(), Some("u"));
    let dsn = Dsn::parse("postgresql://u:p%40@/db?host=/run/pg&port=6000").unwrap();
    assert_eq!(dsn.config.get_hosts(), [Host::Unix("/run/pg".into())]);
    assert_eq!(dsn.config.get_ports(), [6000]);
    assert_eq!(dsn.config.get_password(), Some(&b"p@"[..]));
}

#[test]
fn other_parameters_become_server_settings() {
    let dsn = Dsn::parse(&format!("{BASE}?search_path=a%20b&options=-c%20x%3D1")).unwrap();
    assert_eq!(
        dsn.config.get_options(),
        Some("-c search_path=a\\ b -c x=1")
    );
}

#[test]
fn what_is_not_a_uri_or_has_no_host_is_refused() {
    assert_eq!(refusal("host=db user=u"), DsnError::Scheme);
    assert_eq!(refusal("postgresql:///events"), DsnError::Missing("host"));
}

proptest! {
    #[test]
    fn an_unknown_sslmode_is_refused_by_name_and_not_by_value(mode in "[a-z-]{1,12}") {
        prop_assume!(SslMode::parse(&mode).is_none());
        prop_assert_eq!(ssl(&format!("sslmode={mode}")), Err(DsnError::Value("sslmode".to_owned())));
    }

    #[test]
    fn no_message_shows_the_password(password in "[a-z]{8,16}", query in "[a-z=&%]{0,30}") {
        let text = format!("postgresql://u:{password}@h:port/db?{query}");
        if let Err(error) = Dsn::parse(&text) {
            prop_assert!(!error.to_string().contains(&password));
        }
    }
}
