//! One of the schemas, or the catalog of a forest.

use crate::connection::Connection;
use crate::failed::Failed;
use crate::server::Role;
use crate::settings::{Schema, Settings};
use crate::walk::See;
use crate::{ad, forest, generic};
use account_store::index::Place;
use account_store::{Matches, Query};

/// Whether a connection that was just bound may read what the store needs.
pub(crate) async fn probe(
    connection: &mut Connection,
    settings: &Settings,
    role: Role,
) -> Result<(), Failed> {
    match &settings.schema {
        _ if role == Role::Catalog => forest::probe(connection, settings).await,
        Schema::Ad(schema) => ad::probe(connection, settings, schema).await,
        Schema::Generic(schema) => generic::probe(connection, settings, schema).await,
    }
}

/// The accounts at a place.
pub(crate) async fn find(
    connection: &mut Connection,
    settings: &Settings,
    role: Role,
    (query, place): (&Query, &Place),
) -> Result<Matches, Failed> {
    match &settings.schema {
        _ if role == Role::Catalog => forest::find(connection, settings, query, place).await,
        Schema::Ad(schema) => ad::find(connection, settings, schema, query, place).await,
        Schema::Generic(schema) => generic::find(connection, settings, schema, query, place).await,
    }
}

/// Reads all accounts and groups of the domain; at a catalog, the accounts of other domains of the forest.
pub(crate) async fn walk(
    connection: &mut Connection,
    settings: &Settings,
    role: Role,
    see: &mut See<'_>,
) -> Result<(), Failed> {
    match &settings.schema {
        _ if role == Role::Catalog => forest::walk(connection, settings, see).await,
        Schema::Ad(schema) => ad::walk(connection, settings, schema, see).await,
        Schema::Generic(schema) => generic::walk(connection, settings, schema, see).await,
    }
}
