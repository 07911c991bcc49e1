//! Sessions that are kept for a moment, for whatever comes next in this process.
//!
//! Small moves follow each other: their passes, comparisons and trials log in to the same databases
//! again and again, and logging in costs both sides more than what is then done. A session is kept
//! only where its work has ended well, and is as new when it is lent again: without the marks, the
//! settings and the temporary tables of its last user.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, SimpleQueryMessage};

/// How many are kept for one address: what a small move has open there at the same time.
const AT_MOST: usize = 4;

/// How long an orderly end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that takes longer has other worries than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// The first column says whether a transaction was open: the time of one that begins with this
/// message is the message's. Nobody waits until it is on the disk that a temporary table is gone.
const AS_NEW: &str = "\
    select pg_catalog.now() = pg_catalog.statement_timestamp(); \
    begin; \
    set local synchronous_commit = off; \
    discard temp; \
    commit; \
    select pg_catalog.pg_advisory_unlock_all(); \
    close all; \
    discard sequences; \
    reset role; \
    reset all";

/// An open session. Dropping it ends it at once, and the server rolls back what was open.
pub struct Session {
    client: Arc<Client>,
    driver: Driver,
}

/// The task that moves bytes between client and socket.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    pub fn new(client: Client, driver: JoinHandle<()>) -> Session {
        Session {
            client: Arc::new(client),
            driver: Driver(driver),
        }
    }

    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Ends it, and waits until the server has closed it.
    pub async fn end(self) {
        let Session { client, mut driver } = self;
        drop(client);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut driver.0).await;
    }

    async fn is_as_new(&self) -> bool {
        let Ok(answers) = self.client.simple_query(AS_NEW).await else {
            return false;
        };
        answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row.get(0) == Some("t")),
            _ => None,
        }) == Some(true)
    }
}

/// Of one process, for its coordinator.
pub struct KeptSessions {
    /// How long an idle session is kept: other users of the server want it back.
    time: Duration,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    sessions: Vec<Idle>,
    is_closed: bool,
}

struct Idle {
    dsn: String,
    since: Instant,
    session: Session,
}

impl KeptSessions {
    pub fn new(time: Duration) -> KeptSessions {
        KeptSessions {
            time,
            free: Mutex::default(),
        }
    }

    /// The one that was kept last and still answers, with these settings.
    pub(crate) async fn take(&self, dsn: &str, settings: &str) -> Option<Session> {
        while let Some(session) = self.find(dsn) {
            let set = session.client.batch_execute(settings);
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, set).await {
                return Some(session);
            }
        }
        None
    }

    fn find(&self, dsn: &str) -> Option<Session> {
        let mut free = self.free();
        free.sessions
            .retain(|idle| !idle.session.client.is_closed());
        let at = free.sessions.iter().rposition(|idle| idle.dsn == dsn)?;
        Some(free.sessions.remove(at).session)
    }

    /// Keeps it for a moment, or ends it. Its marks are gone when this returns.
    pub(crate) async fn give_back(self: &Arc<Self>, dsn: String, session: Session) {
        let renewed = tokio::time::timeout(PATIENCE, session.is_as_new()).await;
        if !matches!(renewed, Ok(true)) {
            session.end().await;
            return;
        }
        if let Some(refused) = self.keep(dsn, session) {
            refused.end().await;
            return;
        }
        let (kept, time) = (Arc::downgrade(self), self.time);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(kept) = kept.upgrade() {
                kept.end(|idle| idle.since.elapsed() >= time).await;
            }
        });
    }

    /// Ends all that are kept, and keeps none from now on.
    pub async fn close(&self) {
        self.free().is_closed = true;
        self.end(|_| true).await;
    }

    fn keep(&self, dsn: String, session: Session) -> Option<Session> {
        let mut free = self.free();
        let there = free.sessions.iter().filter(|idle| idle.dsn == dsn).count();
        if free.is_closed || there >= AT_MOST {
            return Some(session);
        }
        free.sessions.push(Idle {
            dsn,
            since: Instant::now(),
            session,
        });
        None
    }

    async fn end(&self, which: impl Fn(&Idle) -> bool) {
        let ended: Vec<Idle> = self
            .free()
            .sessions
            .extract_if(.., |idle| which(idle))
            .collect();
        for idle in ended {
            idle.session.end().await;
        }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
