//! `rcmpd tlsnego …`

mod call;
mod endpoint;
mod session;
mod trace;

use crate::cli::TlsnegoCommand;

pub(super) async fn run(command: TlsnegoCommand) -> anyhow::Result<u8> {
    match command {
        TlsnegoCommand::Call(args) => call::call(&args).await,
        TlsnegoCommand::Endpoint { listen, service } => endpoint::serve(listen, &service).await,
        TlsnegoCommand::Session(command) => session::run(command).await,
    }
}
