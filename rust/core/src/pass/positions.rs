//! Writes the position mapping to the control database, committed before the rows it describes.
//!
//! A mapping row without its event is harmless and removed or reused at the next start; an event
//! without its mapping row would need a search. A migration that keeps its offset instead of rows
//! writes nothing here: the target's progress row has that, and the owner is checked there.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::config::PassConfig;
use crate::error::{Error, On, Result, Side};
use crate::pass::chunk::Key;
use crate::server::claim;
use crate::server::connect::Connection;
use crate::server::copy_in::copy_in;
use crate::server::identifier::qualified;
use crate::server::in_order::in_order;

/// A driver that freezes here keeps the migration's row locked, and the next one has to write it.
const PATIENCE: &str = "set idle_in_transaction_session_timeout = '5s'";

pub struct Positions {
    control: Connection,
    /// Chunks are mapped one after the other: there is one connection for it. Whether the transaction
    /// of the one before is still open: where its rows fail, its mapping is dropped halfway.
    turn: Mutex<bool>,
    migration_id: Uuid,
    owner: Uuid,
    offset: i64,
    keeps_rows: bool,
    copy: Statement,
    insert: Statement,
    forget: Statement,
    check_owner: Statement,
}

impl Positions {
    pub async fn open(config: &PassConfig) -> Result<Positions> {
        let mark = claim::mark(config.migration_id, Side::Control);
        let settings = format!("{PATIENCE}; {mark}");
        let (dsn, kept) = (&config.control_dsn, config.kept.as_ref());
        let control = Connection::open(Side::Control, dsn, kept, &settings).await?;
        let table = qualified(&config.control_schema, "migration_position_mappings");
        let migrations = qualified(&config.control_schema, &config.journal);
        // A fresh position is another one when the chunk is carried again.
        let existing = match config.fresh_positions {
            true => "update set target_position = excluded.target_position",
            false => "nothing",
        };
        let columns = "(migration_id, source_position, target_position, event_id)";
        let copy = format!("copy {table} {columns} from stdin (format binary)");
        let insert = format!(
            "insert into {table} {columns} \
             select $1, source_position, target_position, event_id \
             from unnest($2::bigint[], $3::bigint[], $4::uuid[]) \
                  as row (source_position, target_position, event_id) \
             on conflict (migration_id, source_position) do {existing}"
        );
        let forget =
            format!("delete from {table} where migration_id = $1 and source_position > $2");
        let check_owner =
            format!("select 1 from {migrations} where id = $1 and driver_owner = $2 for share");
        let (copy, insert, forget, check_owner) = tokio::try_join!(
            control.prepare(&copy),
            control.prepare(&insert),
            control.prepare(&forget),
            control.prepare(&check_owner),
        )?;
        Ok(Positions {
            control,
            turn: Mutex::new(false),
            migration_id: config.migration_id,
            owner: config.owner,
            offset: config.offset,
            keeps_rows: config.mapping_rows,
            copy,
            insert,
            forget,
            check_owner,
        })
    }

    pub fn control(&self) -> &Connection {
        &self.control
    }

    /// Removes what an interrupted first pass mapped without having committed the events.
    pub async fn forget_after(&self, position: i64) -> Result<()> {
        if !self.keeps_rows {
            return Ok(());
        }
        let turn = self.turn().await?;
        let client = self.control.client();
        let delete = async {
            client
                .execute(&self.forget, &[&self.migration_id, &position])
                .await
                .on(Side::Control)
        };
        let begun = in_order(self.control.batch("begin"), delete);
        in_order(begun, self.check_owner(client)).await?;
        self.commit(turn).await
    }

    /// Maps rows that are certainly new.
    pub async fn copy(&self, keys: &[Key]) -> Result<()> {
        if !self.keeps_rows {
            return Ok(());
        }
        let turn = self.turn().await?;
        self.begin_copy(keys).await?;
        failpoint!("bulk.mapping.locked");
        self.commit(turn).await?;
        failpoint!("bulk.mapping.committed");
        Ok(())
    }

    /// Maps rows that are probably new: some are mapped where an attempt ended before their commit.
    pub async fn copy_or_insert(&self, keys: &[Key]) -> Result<()> {
        if !self.keeps_rows {
            return Ok(());
        }
        let turn = self.turn().await?;
        match self.begin_copy(keys).await {
            Ok(()) => return self.commit(turn).await,
            Err(Error::UniqueViolation { .. }) => drop(turn),
            Err(error) => return Err(error),
        }
        self.insert(keys).await
    }

    /// Maps rows of which some may be mapped already, at their carried positions.
    pub async fn insert(&self, keys: &[Key]) -> Result<()> {
        let targets: Vec<i64> = keys.iter().map(|key| key.position + self.offset).collect();
        self.insert_at(keys, &targets).await
    }

    /// As `insert`, at the positions that the target has given them.
    pub async fn insert_at(&self, keys: &[Key], targets: &[i64]) -> Result<()> {
        if !self.keeps_rows {
            return Ok(());
        }
        let turn = self.turn().await?;
        let client = self.control.client();
        let positions: Vec<i64> = keys.iter().map(|key| key.position).collect();
        let events: Vec<Uuid> = keys.iter().map(|key| key.event_id).collect();
        let insert = async {
            client
                .execute(
                    &self.insert,
                    &[&self.migration_id, &positions, &targets, &events],
                )
                .await
                .on(Side::Control)
        };
        let begun = in_order(self.control.batch("begin"), insert);
        in_order(begun, self.check_owner(client)).await?;
        self.commit(turn).await
    }

    /// Waits for the connection, and for the end of what was left open on it.
    async fn turn(&self) -> Result<MutexGuard<'_, bool>> {
        let mut is_open = self.turn.lock().await;
        if *is_open {
            self.control.batch("rollback").await?;
        }
        *is_open = true;
        Ok(is_open)
    }

    async fn commit(&self, mut is_open: MutexGuard<'_, bool>) -> Result<()> {
        self.control.batch("commit").await?;
        *is_open = false;
        Ok(())
    }

    /// Leaves the transaction open.
    async fn begin_copy(&self, keys: &[Key]) -> Result<()> {
        let client = self.control.client();
        let rows = [self.encode(keys)];
        let copy = copy_in(Side::Control, client, &self.copy, &rows);
        in_order(self.control.batch("begin"), copy).await?;
        self.check_owner(client).await
    }

    /// Locks the migration's row until the commit, so that no driver takes over before it.
    async fn check_owner(&self, client: &Client) -> Result<()> {
        client
            .query_opt(&self.check_owner, &[&self.migration_id, &self.owner])
            .await
            .on(Side::Control)?
            .map(drop)
            .ok_or(Error::OwnershipLost {
                side: Side::Control,
                reason: "another driver is recorded in the control database",
            })
    }

    pub async fn close(self) {
        self.control.close().await;
    }

    fn encode(&self, keys: &[Key]) -> Bytes {
        const ROW: usize = 2 + 4 * 4 + 16 + 8 + 8 + 16;
        let mut rows = BytesMut::with_capacity(keys.len() * ROW);
        for key in keys {
            rows.put_i16(4);
            rows.put_i32(16);
            rows.put_slice(self.migration_id.as_bytes());
            rows.put_i32(8);
            rows.put_i64(key.position);
            rows.put_i32(8);
            rows.put_i64(key.position + self.offset);
            rows.put_i32(16);
            rows.put_slice(key.event_id.as_bytes());
        }
        rows.freeze()
    }
}
