//! Opens the connections of the data plane.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode as Negotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::error::{Error, On, Result, Side, chain, server_report};
use crate::server::dsn::{Dsn, SslMode, SslOptions};
use crate::server::kept::{KeptSessions, Session};
use crate::server::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings that the data plane depends on and that a role or database may have changed.
///
/// Row-level security would silently filter rows. A commit that is not flushed could be lost after
/// its mapping rows were trusted. A role's timeouts are meant for its application; an abandoned
/// transaction of ours must still release its locks. JIT compilation helps none of our statements:
/// up to PostgreSQL 17, the planner gives a disabled plan without an alternative so high a cost that
/// it would spend a second on compiling each chunk.
const SETTINGS: &str = "\
    set row_security = off; \
    set synchronous_commit = on; \
    set default_transaction_isolation = 'read committed'; \
    set default_transaction_read_only = off; \
    set default_transaction_deferrable = off; \
    set jit = off; \
    set statement_timeout = 0; \
    set lock_timeout = 0; \
    set idle_session_timeout = 0; \
    set idle_in_transaction_session_timeout = '30s'; \
    select set_config('transaction_timeout', '0', false) \
    where current_setting('transaction_timeout', true) is not null";

/// An open connection. Dropping it ends it at once, and the server rolls back what was open.
pub struct Connection {
    side: Side,
    session: Session,
    home: Option<Home>,
}

/// Where a session is kept when its user has done with it.
struct Home {
    kept: Arc<KeptSessions>,
    dsn: String,
}

impl Connection {
    /// A session with the settings: one that was kept and still answers, or a new one. It is kept
    /// again when it is closed. `also` is run with them, in the same message.
    pub async fn open(
        side: Side,
        dsn: &str,
        kept: Option<&Arc<KeptSessions>>,
        also: &str,
    ) -> Result<Connection> {
        let settings = format!("{SETTINGS}; {also}");
        let Some(kept) = kept else {
            return Connection::log_in(side, dsn, &settings).await;
        };
        let mut connection = match kept.take(dsn, &settings).await {
            Some(session) => Connection::new(side, session),
            None => Connection::log_in(side, dsn, &settings).await?,
        };
        connection.home = Some(Home {
            kept: kept.clone(),
            dsn: dsn.to_owned(),
        });
        Ok(connection)
    }

    /// Connects, with TLS as the DSN's `sslmode` says, and makes the settings.
    async fn log_in(side: Side, dsn: &str, settings: &str) -> Result<Connection> {
        let refuse = |message: String| Error::Connect {
            side,
            message,
            sqlstate: None,
        };
        let dsn = Dsn::parse(dsn).map_err(|error| refuse(error.to_string()))?;
        let hosts = each_host(&prepare(dsn.config));
        let mut last = refuse("the DSN has no host".to_owned());
        for config in &hosts {
            // A host that accepts and never answers must not use up the time of the others.
            let connecting = Connection::negotiate(side, config, &dsn.ssl);
            match tokio::time::timeout(patience(config, hosts.len()), connecting).await {
                Ok(Ok(connection)) => {
                    connection.batch(settings).await?;
                    return Ok(connection);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = refuse("the server did not answer in time".to_owned()),
            }
        }
        Err(last)
    }

    /// Tries what libpq tries, in its order: `prefer` falls back to plain text, `allow` to TLS.
    async fn negotiate(side: Side, config: &Config, ssl: &SslOptions) -> Result<Connection> {
        let sockets_only = config
            .get_hosts()
            .iter()
            .all(|host| matches!(host, Host::Unix(_)));
        let plain = || Connection::attempt_plain(side, config.clone());
        let encrypted = |negotiation| {
            let mut config = config.clone();
            config.ssl_mode(negotiation);
            Connection::attempt_tls(side, config, ssl)
        };
        if sockets_only && !config.get_hosts().is_empty() {
            return plain().await.map_err(|attempt| attempt.error);
        }
        let result = match ssl.mode {
            SslMode::Disable => plain().await,
            SslMode::Allow => match plain().await {
                Err(attempt) if attempt.refused => encrypted(Negotiation::Require).await,
                result => result,
            },
            SslMode::Prefer => match encrypted(Negotiation::Prefer).await {
                Err(attempt) if attempt.refused => plain().await.map_err(|second| Attempt {
                    error: if second.refused {
                        attempt.error
                    } else {
                        second.error
                    },
                    refused: second.refused,
                }),
                result => result,
            },
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                encrypted(Negotiation::Require).await
            }
        };
        result.map_err(|attempt| attempt.error)
    }

    async fn attempt_plain(side: Side, mut config: Config) -> Result<Connection, Attempt> {
        config.ssl_mode(Negotiation::Disable);
        let (client, connection) = config
            .connect(NoTls)
            .await
            .map_err(|error| Attempt::failed(side, &error))?;
        let driver = tokio::spawn(async move {
            // The client's next answer reports the failure.
            let _ = connection.await;
        });
        Ok(Connection::new(side, Session::new(client, driver)))
    }

    async fn attempt_tls(
        side: Side,
        config: Config,
        options: &crate::server::dsn::SslOptions,
    ) -> Result<Connection, Attempt> {
        let connector = tls::connector(options).map_err(|error| Attempt {
            error: Error::Connect {
                side,
                message: error.to_string(),
                sqlstate: None,
            },
            refused: false,
        })?;
        let (client, connection) = config
            .connect(connector)
            .await
            .map_err(|error| Attempt::failed(side, &error))?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection::new(side, Session::new(client, driver)))
    }

    fn new(side: Side, session: Session) -> Connection {
        Connection {
            side,
            session,
            home: None,
        }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn client(&self) -> &Arc<Client> {
        self.session.client()
    }

    /// Runs statements that return nothing.
    pub async fn batch(&self, sql: &str) -> Result<()> {
        self.client().batch_execute(sql).await.on(self.side)
    }

    pub async fn prepare(&self, sql: &str) -> Result<tokio_postgres::Statement> {
        self.client().prepare(sql).await.on(self.side)
    }

    /// Fails unless the server is a primary.
    pub async fn refuse_standby(&self, check: &tokio_postgres::Statement) -> Result<()> {
        let row = self.client().query_one(check, &[]).await.on(self.side)?;
        if row.try_get(0).on(self.side)? {
            return Err(Error::Standby { side: self.side });
        }
        Ok(())
    }

    /// Has the session kept where there is a place for it, or ends it. Its marks are gone when this
    /// returns.
    pub async fn close(self) {
        match self.home {
            Some(home) => home.kept.give_back(home.dsn, self.session).await,
            None => self.session.end().await,
        }
    }
}

/// A failed attempt, and whether the server refused this kind of connection.
struct Attempt {
    error: Error,
    refused: bool,
}

impl Attempt {
    fn failed(side: Side, error: &tokio_postgres::Error) -> Attempt {
        let report = server_report(error);
        let no_such_entry = error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        // The TLS layer reports through an io::Error of its own that wraps rustls's.
        let handshake = error.source().is_some_and(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref)
                .is_some_and(|inner| inner.is::<rustls::Error>())
        });
        Attempt {
            error: Error::Connect {
                side,
                message: report
                    .as_ref()
                    .map_or_else(|| chain(error), |report| report.message.clone()),
                sqlstate: report.map(|report| report.sqlstate),
            },
            refused: no_such_entry || handshake,
        }
    }
}

/// How long one host may take in all. One alone may take twice its time, where TLS is only preferred,
/// and answer slowly besides.
fn patience(config: &Config, hosts: usize) -> Duration {
    let once = config
        .get_connect_timeout()
        .copied()
        .unwrap_or(CONNECT_TIMEOUT);
    if hosts == 1 {
        once.saturating_mul(3)
    } else {
        once
    }
}

/// The same configuration for one host after the other.
fn each_host(all: &Config) -> Vec<Config> {
    let (names, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    let count = names.len().max(addresses.len());
    let first = match all.get_load_balance_hosts() {
        LoadBalanceHosts::Random => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.subsec_micros() as usize)
        }
        _ => 0,
    };
    (0..count)
        .map(|turn| (first + turn) % count)
        .map(|number| {
            let mut one = without_host(all);
            match names.get(number) {
                Some(Host::Tcp(name)) => drop(one.host(name)),
                Some(Host::Unix(path)) => drop(one.host_path(path)),
                None => {}
            }
            if let Some(address) = addresses.get(number) {
                one.hostaddr(*address);
            }
            if let Some(port) = ports.get(number).or(ports.first()) {
                one.port(*port);
            }
            one
        })
        .collect()
}

/// `Config` has no way to take a host out again.
fn without_host(all: &Config) -> Config {
    let mut one = Config::new();
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(name) = all.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(time) = all.get_connect_timeout() {
        one.connect_timeout(*time);
    }
    if let Some(time) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*time);
    }
    if let Some(time) = all.get_keepalives_interval() {
        one.keepalives_interval(time);
    }
    if let Some(count) = all.get_keepalives_retries() {
        one.keepalives_retries(count);
    }
    one.keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding());
    one
}

fn prepare(mut config: Config) -> Config {
    config.application_name("eventsource-migrate");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_timeout_of_a_dsn_is_one_without_end() {
        let mut config = Config::new();
        config.connect_timeout(Duration::from_secs(i64::MAX as u64));
        assert!(patience(&config, 1) >= patience(&config, 2));
    }
}
