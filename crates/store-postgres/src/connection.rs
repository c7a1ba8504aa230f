//! One connection: opened, checked, asked.

use crate::failure::Failure;
use crate::settings::{Schema, Server, Settings};
use crate::tls::MakeTls;
use account_store::StoreError;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Connection as Driver, NoTls, Row, Socket, Statement};
use tracing::debug;

/// A dead peer is noticed by the kernel after this time without an answer to what was sent.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is not used is probed after this time, so that firewalls do not forget it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// A value of a statement with its type: statements are not described by the server first.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection. When it is dropped, it is closed, and the server ends its transaction.
pub(crate) struct Connection {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
    schema: Schema,
    /// Named statements by their template; `None` if there are to be none.
    named: Option<HashMap<&'static str, Statement>>,
    pub(crate) opened: Instant,
    pub(crate) used: Instant,
    /// Of a primary: its timeline; 0 if it has none.
    pub(crate) timeline: u32,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // By itself, the driver would wait for the answers that are due.
        self.driver.abort();
    }
}

impl Connection {
    /// Connects and authenticates. `notified` is told of each NOTIFY.
    pub(crate) async fn open(
        settings: &Settings,
        server: &Server,
        notified: &Arc<Notify>,
    ) -> Result<Self, StoreError> {
        let config = config(settings, server)?;
        let failed = |error| match StoreError::from(Failure::from(error)) {
            StoreError::Damaged(why) | StoreError::Unavailable(why) => {
                StoreError::Unavailable(format!("{server}: {why}"))
            }
            error => error,
        };
        let opened = Instant::now();
        let (client, driver) = match settings.tls.as_ref().filter(|_| !server.is_socket()) {
            Some(tls) => {
                let (client, driver) = config.connect(MakeTls(Arc::clone(tls))).await.map_err(failed)?;
                (client, tokio::spawn(drive(driver, Arc::clone(notified))))
            }
            None => {
                let (client, driver) = config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(drive(driver, Arc::clone(notified))))
            }
        };
        let named = settings.prepare.then(HashMap::new);
        let schema = settings.schema.clone();
        Ok(Self { client, driver, schema, named, opened, used: opened, timeline: 0 })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether changes are refused here: a standby, or a primary that was set to read-only.
    async fn is_read_only(&self) -> Result<bool, Failure> {
        let is_on = |rows: Vec<Row>| match rows.first() {
            Some(row) => row.try_get::<_, bool>(0),
            None => Ok(false),
        };
        let sql = "SELECT pg_is_in_recovery()";
        let in_recovery = match self.client.query_typed(sql, &[]).await {
            Ok(rows) => is_on(rows)?,
            // A database of another kind has no such function, and no standby of this kind.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => false,
            Err(error) => return Err(error.into()),
        };
        let sql = "SELECT current_setting('transaction_read_only') = 'on'";
        Ok(is_on(self.client.query_typed(sql, &[]).await?)? || in_recovery)
    }

    /// Rejects a server that takes no changes.
    pub(crate) async fn check_primary(&mut self, server: &Server) -> Result<(), StoreError> {
        match self.is_read_only().await? {
            true => Err(StoreError::Unavailable(format!("{server} is a standby, or read-only"))),
            false => Ok(self.read_timeline().await?),
        }
    }

    /// Asks with an unnamed statement.
    pub(crate) async fn query(&self, template: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
        Ok(self.client.query_typed(&self.schema.sql(template), params).await?)
    }

    /// Asks what is asked often: with a named statement, if there are to be some. One that the server does
    /// not know any more, or cannot use any more, is prepared again, once.
    pub(crate) async fn query_often(
        &mut self,
        template: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        if self.named.is_none() {
            return self.query(template, params).await;
        }
        match self.query_named(template, params).await {
            Err(Failure::PrepareAgain(why)) => {
                debug!(error = %why, "Statement prepared again");
                self.named.iter_mut().for_each(|named| drop(named.remove(template)));
                self.query_named(template, params).await
            }
            answer => answer,
        }
    }

    async fn query_named(
        &mut self,
        template: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let known = self.named.as_ref().and_then(|named| named.get(template)).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let types: Vec<Type> = params.iter().map(|(_, kind)| kind.clone()).collect();
                let prepared = self.client.prepare_typed(&self.schema.sql(template), &types).await?;
                self.named.iter_mut().for_each(|named| drop(named.insert(template, prepared.clone())));
                prepared
            }
        };
        let values: Vec<&(dyn ToSql + Sync)> = params.iter().map(|(value, _)| *value).collect();
        Ok(self.client.query(&statement, &values).await?)
    }

    /// Runs a statement, and returns how many rows it changed.
    pub(crate) async fn execute(&self, template: &str, params: &[Param<'_>]) -> Result<u64, Failure> {
        Ok(self.client.execute_typed(&self.schema.sql(template), params).await?)
    }

    /// Runs statements without values.
    pub(crate) async fn batch(&self, template: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(&self.schema.sql(template)).await?)
    }
}

fn config(settings: &Settings, server: &Server) -> Result<Config, StoreError> {
    let mut config = Config::new();
    config
        .host(&server.host)
        .port(server.port)
        .dbname(&settings.database)
        .user(&settings.user)
        .application_name("rcmpd")
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_PROBES)
        .tcp_user_timeout(USER_TIMEOUT)
        .ssl_mode(match settings.tls.is_some() && !server.is_socket() {
            true => SslMode::Require,
            false => SslMode::Disable,
        });
    if let Some(password) = &settings.password {
        let password = password()
            .map_err(|why| StoreError::Unavailable(format!("the password of PostgreSQL: {why}")))?;
        config.password(password.as_bytes());
    }
    Ok(config)
}

/// Moves bytes until the connection ends.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(mut driver: Driver<Socket, T>, notified: Arc<Notify>) {
    loop {
        match poll_fn(|context| driver.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(_))) => notified.notify_one(),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                debug!(%error, "Connection to PostgreSQL ended");
                return;
            }
            None => return,
        }
    }
}
