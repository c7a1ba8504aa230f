//! One of the schemas.

use crate::connection::Connection;
use crate::failed::Failed;
use crate::settings::{Schema, Settings};
use crate::{ad, generic};
use account_store::index::Place;
use account_store::{Matches, Query};

/// Whether a connection that was just bound may read what the store needs.
pub(crate) async fn probe(connection: &mut Connection, settings: &Settings) -> Result<(), Failed> {
    match &settings.schema {
        Schema::Ad(schema) => ad::probe(connection, settings, schema).await,
        Schema::Generic(schema) => generic::probe(connection, settings, schema).await,
    }
}

/// The accounts at a place.
pub(crate) async fn find(
    connection: &mut Connection,
    settings: &Settings,
    query: &Query,
    place: &Place,
) -> Result<Matches, Failed> {
    match &settings.schema {
        Schema::Ad(schema) => ad::find(connection, settings, schema, query, place).await,
        Schema::Generic(schema) => generic::find(connection, settings, schema, query, place).await,
    }
}
