//! Which of the hosts lets us write: asked one after the other, each with its own time, so that one that is silent does not keep
//! from the next.

use super::options::PostgresOptions;
use super::tls::Tls;
use deadpool_postgres::Connect;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, Error};

/// What came of asking last; they are asked in this order. Whoever was not asked yet counts as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
enum Standing {
    #[default]
    Well,
    Refusing,
    Silent,
}

/// A host, and the addresses that its name had last.
#[derive(Clone, Default, Debug)]
struct Known {
    standing: Standing,
    addresses: Vec<(IpAddr, Standing)>,
}

impl Known {
    /// These are its addresses now; returns them in the order in which they are asked.
    fn now_at(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut now: Vec<(IpAddr, Standing)> = Vec::new();
        for address in addresses {
            if !now.iter().any(|(known, _)| *known == address) {
                now.push((address, self.standing_of(address)));
            }
        }
        self.addresses = now.clone();
        now.sort_by_key(|(_, standing)| *standing);
        now.into_iter().map(|(address, _)| address).collect()
    }

    fn standing_of(&self, address: IpAddr) -> Standing {
        self.addresses.iter().find(|(known, _)| *known == address).map_or(Standing::Well, |(_, standing)| *standing)
    }

    fn note(&mut self, address: IpAddr, standing: Standing) {
        self.addresses.iter_mut().filter(|(known, _)| *known == address).for_each(|(_, of)| *of = standing);
    }
}

/// The hosts in the order in which they are asked.
fn in_order(hosts: &[Known]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    order.sort_by_key(|at| hosts[*at].standing);
    order
}

/// Connects, and tells of every connection.
pub(super) struct Connecting {
    options: Arc<PostgresOptions>,
    tls: Tls,
    hosts: Mutex<Vec<Known>>,
    made: flume::Sender<AbortHandle>,
}

type Made = (Client, JoinHandle<()>);

/// Why a host did not do.
struct Unfit {
    standing: Standing,
    error: Error,
}

impl Unfit {
    fn silent() -> Self {
        Self { standing: Standing::Silent, error: Error::__private_api_timeout() }
    }
}

impl Connecting {
    pub(super) fn new(options: Arc<PostgresOptions>, tls: Tls, made: flume::Sender<AbortHandle>) -> Self {
        let hosts = Mutex::new(vec![Known::default(); options.hosts.len()]);
        Self { options, tls, hosts, made }
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<Known>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes at most `connect_timeout` for each lookup and for each address. Cancel: safe.
    async fn any(&self, config: &Config) -> Result<Made, Error> {
        let order = in_order(&self.hosts());
        let mut last = None;
        for at in order {
            let asked = self.host(config, at).await;
            let standing = asked.as_ref().err().map_or(Standing::Well, |unfit| unfit.standing);
            let before = std::mem::replace(&mut self.hosts()[at].standing, standing);
            match asked {
                Ok(made) => return Ok(made),
                Err(unfit) => {
                    if standing == Standing::Silent && before != standing {
                        let (host, port) = &self.options.hosts[at];
                        tracing::warn!(host, port, "a host of the database is silent: it is asked after the others");
                    }
                    last = Some(unfit.error);
                }
            }
        }
        Err(last.unwrap_or_else(Error::__private_api_timeout))
    }

    /// Asks a host at all its addresses. It is as bad as its worst one.
    async fn host(&self, config: &Config, at: usize) -> Result<Made, Unfit> {
        let addresses = self.look_up(at).await?;
        // Without an address the driver says what is wrong with the name; and a socket's directory has none.
        let addresses =
            if addresses.is_empty() { vec![None] } else { addresses.into_iter().map(Some).collect::<Vec<_>>() };
        let mut worst: Option<Unfit> = None;
        for address in addresses {
            let asked = self.ask(&to(config, &self.options.hosts[at], address)).await;
            let standing = asked.as_ref().err().map_or(Standing::Well, |unfit| unfit.standing);
            if let Some(address) = address {
                self.hosts()[at].note(address, standing);
            }
            match asked {
                Ok(made) => return Ok(made),
                Err(unfit) if worst.as_ref().is_none_or(|worst| worst.standing <= unfit.standing) => {
                    worst = Some(unfit);
                }
                Err(_) => {}
            }
        }
        Err(worst.unwrap_or_else(Unfit::silent))
    }

    /// The addresses that its name has now, in the order in which they are asked; none if it cannot be found out.
    async fn look_up(&self, at: usize) -> Result<Vec<IpAddr>, Unfit> {
        let (name, port) = &self.options.hosts[at];
        if is_directory(name) {
            return Ok(Vec::new());
        }
        let found = timeout(self.options.connect_timeout, tokio::net::lookup_host((name.as_str(), *port))).await;
        match found {
            Ok(Ok(found)) => Ok(self.hosts()[at].now_at(found.map(|one| one.ip()))),
            Ok(Err(_)) => Ok(Vec::new()), // asked once more by the driver, whose error it will be
            Err(_) => Err(Unfit::silent()),
        }
    }

    /// All that a connection needs before its first statement: TCP, TLS, who we are, and whether we may write.
    async fn ask(&self, config: &Config) -> Result<Made, Unfit> {
        let connecting = timeout(self.options.connect_timeout, config.connect(self.tls.clone()));
        let (client, connection) = match connecting.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(Unfit { standing: Standing::Refusing, error }),
            Err(_) => return Err(Unfit::silent()),
        };
        let task = tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::warn!(%cause, "a connection to the database has failed");
            }
        });
        let _ = self.made.send(task.abort_handle()); // gone with the store
        Ok((client, task))
    }
}

impl Connect for Connecting {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Result<Made, Error>> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { self.any(&config).await })
    }
}

fn is_directory(host: &str) -> bool {
    host.starts_with('/')
}

/// How to reach a host, at this address of its name or wherever it is.
pub(super) fn to(config: &Config, (host, port): &(String, u16), address: Option<IpAddr>) -> Config {
    let mut config = config.clone();
    if is_directory(host) {
        config.host_path(host)
    } else {
        config.host(host)
    };
    if let Some(address) = address {
        config.hostaddr(address);
    }
    config.port(*port);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_silent_is_asked_last() {
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|one| one.parse::<IpAddr>().expect("an address"));
        let mut host = Known::default();
        assert_eq!(host.now_at([a, b, a].into_iter()), [a, b]);
        host.note(a, Standing::Silent);
        assert_eq!(host.now_at([a, b, c].into_iter()), [b, c, a]);
        host.note(b, Standing::Refusing);
        assert_eq!(host.now_at([a, b, c].into_iter()), [c, b, a]);
        // Its name has moved away and back: nothing is known of it any more.
        host.now_at([b, c].into_iter());
        assert_eq!(host.now_at([a, b, c].into_iter()), [a, c, b]);
        let known = |standing| Known { standing, ..Known::default() };
        let hosts = [Standing::Silent, Standing::Refusing, Standing::Well, Standing::Well].map(known);
        assert_eq!(in_order(&hosts), [2, 3, 1, 0]);
    }
}
