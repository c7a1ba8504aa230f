//! What a hop costs: the same questions about the same accounts, asked of their own domain, of one that asks
//! it, and of one that asks that one. All servers share one core, and the cost is that of all of them
//! together.

use crate::accounts::{Accounts, Policy};
use crate::cores::apart;
use crate::generator::Generator;
use crate::table::Table;
use crate::{CALLS, cpu_ns, least, serve};
use rcmpd_tests::{Demo, Service, write_secret};

const ACCOUNTS: u32 = 1000;
const CONNECTIONS: usize = 8;

pub(crate) async fn measure(table: &mut Table) {
    let (contoso, accounts) = serve(ACCOUNTS, Policy::Off);
    let direct = cost(&Generator::new(&contoso).await, &accounts, &[&contoso]).await;
    let one = asking("FABRIKAM", "127.0.0.2", &contoso, &contoso, "");
    let one_hop = cost(&Generator::of(&one, "FABRIKAM").await, &accounts, &[&one, &contoso]).await;
    let two = asking("NORTHWIND", "127.0.0.3", &contoso, &one, "FABRIKAM");
    let two_hops = cost(&Generator::of(&two, "NORTHWIND").await, &accounts, &[&two, &one, &contoso]).await;
    for (what, cost) in [("direct", direct), ("over one hop", one_hop), ("over two hops", two_hops)] {
        let what =
            format!("answer {what}, all servers together, {CONNECTIONS} connections, {ACCOUNTS} accounts");
        table.row(&what, cost, "µs", None);
    }
    table.row("one hop, times the direct answer", one_hop / direct, "", None);
    table.row("two hops, times the direct answer", two_hops / direct, "", None);
}

async fn cost(generator: &Generator, accounts: &Accounts, servers: &[&Service]) -> f64 {
    let total = || servers.iter().map(|server| cpu_ns(server.pid(), "")).sum::<u64>();
    least(async || {
        let prepared = generator.prepare(CONNECTIONS, CALLS, accounts).await;
        let before = total();
        prepared.run().await;
        (total() - before) as f64 / 1000.0 / CALLS as f64
    })
    .await
}

/// A domain that asks about CONTOSO, directly or through another one.
fn asking(netbios: &str, address: &str, contoso: &Service, next: &Service, via: &str) -> Service {
    let demo = Demo::domain(netbios, "DC", address, contoso);
    let secret = next.add_trust(netbios);
    write_secret(demo.path("next.secret"), secret);
    let transit = if via.is_empty() { "" } else { "transit = [\"CONTOSO\"]\n" };
    next.configure(&format!("{}direction = \"inbound\"\nkind = \"rcmpd\"\n{transit}", demo.as_peer()));
    next.edit(|text| text.replace("[audit]\npath = \"audit.log\"\n", ""));
    next.reload();
    demo.configure(&format!(
        "{}direction = \"outbound\"\nkind = \"rcmpd\"\nservers = [\"{}\"]\nsecret = \"file:next.secret\"\n",
        next.as_peer(),
        next.netlogon
    ));
    if !via.is_empty() {
        demo.configure(&format!("{}direction = \"outbound\"\nvia = \"{via}\"\n", contoso.as_peer()));
    }
    // Writing lines is not what is measured.
    demo.edit(|text| text.replace("[audit]\npath = \"audit.log\"\n", ""));
    apart(|| demo.serve_with(&[("TOKIO_WORKER_THREADS", "1")]))
}
