//! Reads a `postgresql://` URI: what concerns TLS is kept here, the rest goes to `tokio_postgres`.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio_postgres::Config;

/// libpq's `sslmode`, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub fn parse(text: &str) -> Option<SslMode> {
        Some(match text {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => return None,
        })
    }
}

/// Where to find the certificates that must have signed the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// `sslrootcert=system`.
    System,
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SslOptions {
    pub mode: SslMode,
    pub roots: Option<Roots>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub versions: Versions,
}

/// Which versions of TLS are spoken; there is nothing below 1.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    #[default]
    Any,
    Only12,
    Only13,
}

#[derive(Clone)]
pub struct Dsn {
    pub config: Config,
    pub ssl: SslOptions,
}

/// Messages name parameters, never values: a value may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    #[error("the DSN must be a postgresql:// URI")]
    Scheme,
    #[error("the DSN is not a valid URI: {0}")]
    Invalid(String),
    #[error("the DSN's {0} has an unknown value")]
    Value(String),
    #[error("the DSN's {0} is not supported; remove it")]
    Unsupported(String),
    #[error("the DSN has no {0}")]
    Missing(&'static str),
    #[error("sslrootcert=system needs sslmode=verify-full")]
    WeakSystemRoots,
}

/// Parameters that would silently weaken or change the connection if they were ignored.
const UNSUPPORTED: &[&str] = &[
    "gssencmode",
    "passfile",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "servicefile",
    "sslcrl",
    "sslcrldir",
    "sslpassword",
    "sslsni",
];

/// Parameters that `tokio_postgres` reads itself.
const FORWARDED: &[&str] = &[
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// What a string that does not say otherwise gets: a connection whose other end is gone without a
/// word is an error within half a minute, not after the system's two hours.
const KEEPALIVES: &[(&str, &str)] = &[
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_retries", "3"),
];
const USER_TIMEOUT: Duration = Duration::from_secs(30);

impl Dsn {
    pub fn parse(text: &str) -> Result<Dsn, DsnError> {
        if !text.starts_with("postgresql://") && !text.starts_with("postgres://") {
            return Err(DsnError::Scheme);
        }
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let mut ssl = SslText::default();
        let mut forwarded = Vec::new();
        let mut settings = Vec::new();
        let mut user_timeout = USER_TIMEOUT;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            match name.as_str() {
                "sslmode" => ssl.mode = Some(value),
                "sslrootcert" => ssl.root = Some(value),
                "sslcert" => ssl.certificate = Some(value),
                "sslkey" => ssl.key = Some(value),
                "sslcertmode" => ssl.shown = Some(value),
                "ssl_min_protocol_version" => ssl.lowest = Some(value),
                "ssl_max_protocol_version" => ssl.highest = Some(value),
                // Milliseconds in libpq, seconds in `tokio_postgres`.
                "tcp_user_timeout" => {
                    let parsed = value.parse().map_err(|_| DsnError::Value(name))?;
                    user_timeout = Duration::from_millis(parsed);
                }
                "keepalives_count" => forwarded.push(format!("keepalives_retries={value}")),
                name if UNSUPPORTED.contains(&name) => {
                    return Err(DsnError::Unsupported(name.to_owned()));
                }
                "options" => settings.push(value),
                name if FORWARDED.contains(&name) => forwarded.push(pair.to_owned()),
                // asyncpg, which reads the same DSN, takes any other name for a server setting.
                name => settings.push(format!("-c {name}={}", escape_option(&value))),
            }
        }
        if !settings.is_empty() {
            let options = settings.join(" ");
            let encoded = utf8_percent_encode(&options, NON_ALPHANUMERIC);
            forwarded.push(format!("options={encoded}"));
        }
        for (name, value) in KEEPALIVES {
            if !forwarded
                .iter()
                .any(|pair| pair.split('=').next() == Some(name))
            {
                forwarded.push(format!("{name}={value}"));
            }
        }
        let uri = format!("{address}?{}", forwarded.join("&"));
        let mut config: Config = uri
            .parse()
            .map_err(|error| DsnError::Invalid(crate::error::chain(&error)))?;
        config.tcp_user_timeout(user_timeout);
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(DsnError::Missing("host"));
        }
        let ssl = ssl.resolve()?;
        Ok(Dsn { config, ssl })
    }
}

#[derive(Default)]
struct SslText {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    shown: Option<String>,
    lowest: Option<String>,
    highest: Option<String>,
}

impl SslText {
    /// Fills in libpq's defaults.
    fn resolve(self) -> Result<SslOptions, DsnError> {
        let roots = match self.root.as_deref() {
            Some("system") => Some(Roots::System),
            Some(path) => Some(Roots::File(path.into())),
            None => existing("root.crt").map(Roots::File),
        };
        let mut mode = match (&self.mode, &roots) {
            (Some(text), _) => {
                SslMode::parse(text).ok_or_else(|| DsnError::Value("sslmode".to_owned()))?
            }
            (None, Some(Roots::System)) => SslMode::VerifyFull,
            (None, _) => SslMode::Prefer,
        };
        if roots == Some(Roots::System) && mode != SslMode::VerifyFull {
            return Err(DsnError::WeakSystemRoots);
        }
        // As in libpq: where there is a root certificate, "require" verifies against it.
        if mode == SslMode::Require && roots.is_some() {
            mode = SslMode::VerifyCa;
        }
        if mode >= SslMode::VerifyCa && roots.is_none() {
            return Err(DsnError::Missing("sslrootcert"));
        }
        let versions = versions(self.lowest.as_deref(), self.highest.as_deref())?;
        let shown = match self.shown.as_deref() {
            None | Some("allow") => true,
            Some("disable") => false,
            Some("require") => return Err(DsnError::Unsupported("sslcertmode=require".to_owned())),
            Some(_) => return Err(DsnError::Value("sslcertmode".to_owned())),
        };
        let named = |text: Option<String>, default: &str| {
            let file = text.map(PathBuf::from).or_else(|| existing(default));
            file.filter(|_| shown)
        };
        Ok(SslOptions {
            mode,
            roots,
            certificate: named(self.certificate, "postgresql.crt"),
            key: named(self.key, "postgresql.key"),
            versions,
        })
    }
}

fn versions(lowest: Option<&str>, highest: Option<&str>) -> Result<Versions, DsnError> {
    let rank = |text: Option<&str>, name: &str| match text {
        None => Ok(None),
        Some("TLSv1") => Ok(Some(0)),
        Some("TLSv1.1") => Ok(Some(1)),
        Some("TLSv1.2") => Ok(Some(2)),
        Some("TLSv1.3") => Ok(Some(3)),
        Some(_) => Err(DsnError::Value(name.to_owned())),
    };
    let lowest = rank(lowest, "ssl_min_protocol_version")?
        .unwrap_or(2)
        .max(2);
    let highest = rank(highest, "ssl_max_protocol_version")?.unwrap_or(3);
    match (lowest, highest) {
        (2, 3) => Ok(Versions::Any),
        (2, 2) => Ok(Versions::Only12),
        (3, 3) => Ok(Versions::Only13),
        _ => Err(DsnError::Value("ssl_max_protocol_version".to_owned())),
    }
}

/// A file of libpq's per-user directory, if it is there.
fn existing(name: &str) -> Option<PathBuf> {
    let path = std::env::home_dir()?.join(".postgresql").join(name);
    path.is_file().then_some(path)
}

fn decode(text: &str) -> Result<String, DsnError> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| DsnError::Invalid("a parameter is not UTF-8".to_owned()))
}

/// The server splits `options` at unescaped blanks.
fn escape_option(value: &str) -> String {
    value.replace('\\', "\\\\").replace(' ', "\\ ")
}

#[cfg(test)]
#[path = "dsn_tests.rs"]
mod tests;
