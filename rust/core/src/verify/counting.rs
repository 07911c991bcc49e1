//! Counts the source's streams at its server, when they are too many to be named here.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{On, Result, Side};
use crate::task::Task;
use crate::verify::config::VerifyConfig;
use crate::verify::scan::Selection;

/// A server that counts notices so that nobody waits for it any more; not every system can say so.
const GIVEN_UP: &str = "do $set$ begin \
     perform pg_catalog.set_config('client_connection_check_interval', '10s', false); \
     exception when others then null; end $set$";

/// One count for all ranges, which runs beside them.
pub struct Counting {
    config: Arc<VerifyConfig>,
    task: Mutex<Option<Task<i64>>>,
}

impl Counting {
    pub fn new(config: Arc<VerifyConfig>) -> Arc<Counting> {
        Arc::new(Counting {
            config,
            task: Mutex::new(None),
        })
    }

    /// Begins to count, unless that has begun or another range will come.
    pub fn begin(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() && self.config.upto.is_none() {
            *task = Some(Task::spawn(count(self.config.clone())));
        }
    }

    /// The number, if it was counted. A count that fails is no difference between the two sides: a
    /// server may have too little room for it.
    pub async fn finish(&self) -> Option<i64> {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        task?.join().await.ok()
    }
}

async fn count(config: Arc<VerifyConfig>) -> Result<i64> {
    let selection = Selection::of(&config, Side::Source);
    let sql = format!(
        "select count(*) from (select from {} where {} and {} \
         group by aggregate_id, aggregate_type) as streams",
        selection.table,
        selection.condition_of_all(config.began_after),
        selection.due(),
    );
    let connection = config.open(Side::Source, GIVEN_UP).await?;
    let row = connection.client().query_one(&sql, &[]).await;
    let counted = row.on(Side::Source)?.try_get(0).on(Side::Source)?;
    connection.close().await;
    Ok(counted)
}
