// A Netlogon server on loopback, for the tests and for the example in lib.rs, which includes this file.

/// The one account: a member of CONTOSO.
struct OneMachine(netlogon_transport::secrets::Machine);

type Found = Result<Option<netlogon_transport::secrets::Machine>, netlogon_transport::secrets::SecretsUnavailable>;
type Done<T> = Result<T, netlogon_transport::secrets::SecretsUnavailable>;

impl netlogon_transport::secrets::ChannelSecrets for OneMachine {
    fn find<'a>(&'a self, name: &'a str) -> dcerpc_tokio::BoxFuture<'a, Found> {
        let found = name.eq_ignore_ascii_case(&self.0.name).then(|| self.0.clone());
        Box::pin(std::future::ready(Ok(found)))
    }

    fn revision(&self) -> Done<u64> {
        Ok(1)
    }

    fn current_used<'a>(
        &'a self,
        _: &'a netlogon_transport::secrets::Machine,
    ) -> dcerpc_tokio::BoxFuture<'a, Done<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn rotate<'a>(
        &'a self,
        _: &'a netlogon_transport::secrets::Machine,
        _: netlogon_transport::secret::SharedSecret,
    ) -> dcerpc_tokio::BoxFuture<'a, Done<bool>> {
        Box::pin(std::future::ready(Ok(false)))
    }
}

struct NoAudit;

impl netlogon_transport::server::Audit for NoAudit {
    fn channel(
        &self,
        _: &netlogon_transport::server::ChannelEvent<'_>,
    ) -> Result<(), netlogon_transport::server::AuditUnavailable> {
        Ok(())
    }
}

struct Clock(std::time::Instant);

impl netlogon_transport::server::Environment for Clock {
    fn uptime(&self) -> std::time::Duration {
        self.0.elapsed()
    }

    fn pause(&self, time: std::time::Duration) -> dcerpc_tokio::BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn wait_until(&self, time: std::time::Duration) -> dcerpc_tokio::BoxFuture<'static, ()> {
        self.pause(time.saturating_sub(self.uptime()))
    }
}

struct Provider(netlogon_transport::server::NetlogonServer);

impl dcerpc_tokio::SecurityProvider for Provider {
    fn auth_type(&self) -> dcerpc::security::AuthType {
        dcerpc::security::AuthType::NETLOGON
    }

    fn accept<'a>(
        &'a self,
        _: &'a dcerpc_tokio::Peer,
        request: dcerpc::server::Authenticate,
    ) -> dcerpc_tokio::BoxFuture<'a, dcerpc::security::Authentication> {
        Box::pin(self.0.accept(request))
    }
}

/// Serves the domain CONTOSO with the machine account `WEB01$` and a package "Echo", which answers with the
/// request's data. Returns the server's `HOST:PORT`.
async fn echo_server(password: &str) -> String {
    answering_server(password, dtyp::NtStatus::SUCCESS).await
}

/// The same, with this status in each answer.
async fn answering_server(password: &str, status: dtyp::NtStatus) -> String {
    use netlogon_transport::{package, secrets, server};
    use tower::util::BoxCloneSyncService;

    let sid: dtyp::Sid = "S-1-5-21-1-2-3-1001".parse().expect("a SID");
    let machine = secrets::Machine {
        name: "WEB01$".into(),
        sid,
        channel_type: secrets::ChannelType::WORKSTATION,
        enabled: true,
        current: netlogon_transport::secret::SharedSecret::from_password(password),
        previous: None,
        may_map: true,
        domains: std::sync::Arc::default(),
        groups: std::sync::Arc::default(),
    };
    let echo = tower::service_fn(move |call: package::PackageCall| {
        std::future::ready(Ok(package::PackageReply { status, authoritative: true, data: Some(call.data.into()) }))
    });
    let netlogon = server::NetlogonServer::new(server::ServerParts {
        names: server::ServerNames {
            domain: netlogon_transport::message::PrimaryDomain {
                netbios: "CONTOSO".into(),
                dns: "contoso.example".into(),
                guid: dtyp::Guid::NIL,
                sid: "S-1-5-21-1-2-3".parse().expect("a SID"),
            },
            server: "DC01".into(),
            strict_server_name: false,
        },
        secrets: std::sync::Arc::new(OneMachine(machine)),
        packages: package::Packages::default().with("Echo", BoxCloneSyncService::new(echo)),
        audit: std::sync::Arc::new(NoAudit),
        environment: std::sync::Arc::new(Clock(std::time::Instant::now())),
        response_crypt: server::ResponseCrypt::Encrypt,
    });
    let calls = netlogon.clone();
    let service = tower::service_fn(move |call: dcerpc_tokio::RpcCall| {
        let netlogon = calls.clone();
        async move {
            let call = server::NetlogonCall {
                connection: call.peer.connection,
                address: call.peer.address,
                caller: call.connection,
                call: call.call,
            };
            netlogon.call(call).await
        }
    });
    let registry = dcerpc_tokio::Registry::default()
        .interface(dcerpc_tokio::Interface {
            syntax: server::NETLOGON,
            name: "netlogon",
            method: |_| None,
            service: BoxCloneSyncService::new(service),
        })
        .provider(std::sync::Arc::new(Provider(netlogon)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let server =
        dcerpc_tokio::Server::new(registry, Default::default(), Default::default(), Default::default());
    tokio::spawn(server.listen(listener));
    address
}
