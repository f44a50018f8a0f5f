//! Which node serves which pods, where a pod network keeps that in objects of its own.

use std::time::Duration;

use futures::{
    FutureExt as _, StreamExt as _,
    future::{self, BoxFuture},
    stream::BoxStream,
};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

use super::{
    api::{Api, CallError, Object, SHORT_WATCH, Told},
    health::Backoff,
};

/// Where it stands which pods a node serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodSource {
    /// In the node's `spec.podCIDRs`.
    #[default]
    Nodes,
    /// In Calico's `BlockAffinity` objects, each of which binds a block to a node.
    Calico,
    /// In Cilium's `CiliumNode` objects, one for each node.
    Cilium,
}

/// Networks whose pods are one node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRange {
    /// The object that says so.
    pub(super) object: String,
    pub(super) node: String,
    pub(super) cidrs: Vec<IpNet>,
}

/// `blockaffinities.crd.projectcalico.org`.
///
/// Whatever the API server lets stand in an object of somebody else's kind: what is not understood counts as not there.
#[derive(Clone, Debug, Deserialize)]
struct BlockAffinity {
    metadata: Meta,
    #[serde(default, deserialize_with = "lenient")]
    spec: BlockSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BlockSpec {
    #[serde(deserialize_with = "lenient")]
    cidr: String,
    #[serde(deserialize_with = "lenient")]
    node: String,
    /// `pending` until the block is the node's, `confirmed`, `pendingDeletion`.
    #[serde(deserialize_with = "lenient")]
    state: String,
    /// A text: `true` for one that is on its way out.
    #[serde(deserialize_with = "lenient")]
    deleted: String,
}

/// `ciliumnodes.cilium.io`, which bears the node's name.
#[derive(Clone, Debug, Deserialize)]
struct CiliumNode {
    metadata: Meta,
    #[serde(default, deserialize_with = "lenient")]
    spec: CiliumSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CiliumSpec {
    #[serde(deserialize_with = "lenient")]
    ipam: CiliumIpam,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CiliumIpam {
    #[serde(rename = "podCIDRs", deserialize_with = "lenient")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    resource_version: String,
}

impl Object for BlockAffinity {
    const PATH: &'static str = "/apis/crd.projectcalico.org/v1/blockaffinities";

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Object for CiliumNode {
    const PATH: &'static str = "/apis/cilium.io/v2/ciliumnodes";

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl From<BlockAffinity> for PodRange {
    fn from(BlockAffinity { metadata, spec }: BlockAffinity) -> Self {
        let bound = spec.state == "confirmed" && spec.deleted != "true";
        Self {
            object: metadata.name,
            node: spec.node,
            cidrs: networks(bound.then_some(spec.cidr)),
        }
    }
}

impl From<CiliumNode> for PodRange {
    fn from(CiliumNode { metadata, spec }: CiliumNode) -> Self {
        Self {
            object: metadata.name.clone(),
            node: metadata.name,
            cidrs: networks(spec.ipam.pod_cidrs),
        }
    }
}

fn networks(texts: impl IntoIterator<Item = String>) -> Vec<IpNet> {
    let networks = texts.into_iter().filter_map(|text| text.parse().ok());
    networks.map(|network: IpNet| network.trunc()).collect()
}

/// What is of another type than it should be counts as absent.
fn lenient<'de, D: Deserializer<'de>, T: Default + DeserializeOwned>(
    from: D,
) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// All objects of a source, and the version from which to watch them.
type Listed = Result<(Vec<PodRange>, String), CallError>;

/// Follows the objects of a source. It has no error: a cluster whose pods can't be told still has services.
pub(super) struct PodWatch {
    api: Api,
    source: PodSource,
    state: State,
    backoff: Backoff,
}

enum State {
    /// There are no such objects: the pod network keeps none, or is not installed yet.
    Absent,
    Listing(BoxFuture<'static, Listed>),
    /// Since then.
    Watching(
        Instant,
        BoxStream<'static, Result<Told<PodRange>, CallError>>,
    ),
}

impl PodWatch {
    pub(super) fn new(api: &Api, source: PodSource) -> Self {
        let mut watch = Self {
            api: api.clone(),
            source,
            state: State::Absent,
            backoff: Backoff::new(),
        };
        watch.look_again();
        watch
    }

    /// Looks whether objects that were absent are there by now.
    ///
    /// A new node gets ready only after its pod network runs, and that only after its kinds of objects were installed: news
    /// of a node are the time to look.
    pub(super) fn look_again(&mut self) {
        if matches!(self.state, State::Absent) && self.source != PodSource::Nodes {
            self.list_after(Duration::ZERO);
        }
    }

    /// What comes next; never anything while there is nothing to follow. It may be dropped and called again.
    pub(super) async fn next(&mut self) -> Told<PodRange> {
        loop {
            match &mut self.state {
                State::Absent => return future::pending().await,
                State::Listing(listing) => match listing.await {
                    Ok((ranges, version)) => {
                        let watching = watch(&self.api, self.source, version);
                        self.state = State::Watching(Instant::now(), watching);
                        return Told::Reset(ranges);
                    }
                    Err(error) if is_absent(&error) => {
                        self.state = State::Absent;
                        return Told::Reset(Vec::new());
                    }
                    Err(error) => self.try_again(&error),
                },
                State::Watching(since, watching) => match watching.next().await {
                    Some(Ok(told)) => {
                        self.backoff = Backoff::new();
                        return told;
                    }
                    Some(Err(error)) if is_absent(&error) => {
                        self.state = State::Absent;
                        return Told::Reset(Vec::new());
                    }
                    Some(Err(error)) => {
                        // A list that can be had says nothing of the watch: only one that was of use is begun anew at once.
                        if since.elapsed() >= SHORT_WATCH {
                            self.backoff = Backoff::new();
                        }
                        self.try_again(&error);
                    }
                    None => self.list_after(Duration::ZERO),
                },
            }
        }
    }

    /// What is known stays until the server tells more; whether the server lives is for others to find out.
    fn try_again(&mut self, error: &CallError) {
        tracing::debug!(source = ?self.source, %error, "the pod networks can't be read");
        let pause = self.backoff.next();
        self.list_after(pause.max(error.rest()));
    }

    fn list_after(&mut self, pause: Duration) {
        let (api, source) = (self.api.clone(), self.source);
        let listing = async move {
            sleep(pause).await;
            list(&api, source).await
        };
        self.state = State::Listing(listing.boxed());
    }
}

fn is_absent(error: &CallError) -> bool {
    matches!(error, CallError::Status(status) if status.code == 404)
}

async fn list(api: &Api, source: PodSource) -> Listed {
    async fn of<K: Object + Into<PodRange>>(api: &Api) -> Listed {
        let (objects, version) = api.list::<K>().await?;
        Ok((objects.into_iter().map(Into::into).collect(), version))
    }
    match source {
        PodSource::Nodes => Ok((Vec::new(), String::new())),
        PodSource::Calico => of::<BlockAffinity>(api).await,
        PodSource::Cilium => of::<CiliumNode>(api).await,
    }
}

fn watch(
    api: &Api,
    source: PodSource,
    version: String,
) -> BoxStream<'static, Result<Told<PodRange>, CallError>> {
    fn of<K: Object + Into<PodRange>>(
        api: &Api,
        version: String,
    ) -> BoxStream<'static, Result<Told<PodRange>, CallError>> {
        let told = api.watch::<K>(version);
        told.map(|told| Ok(told?.map(Into::into))).boxed()
    }
    match source {
        PodSource::Nodes => futures::stream::pending().boxed(),
        PodSource::Calico => of::<BlockAffinity>(api, version),
        PodSource::Cilium => of::<CiliumNode>(api, version),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn block(spec: Value) -> PodRange {
        let object = json!({ "metadata": { "name": "b", "resourceVersion": "1" }, "spec": spec });
        serde_json::from_value::<BlockAffinity>(object)
            .unwrap()
            .into()
    }

    fn cilium(spec: Value) -> PodRange {
        let object = json!({ "metadata": { "name": "p-m02" }, "spec": spec });
        serde_json::from_value::<CiliumNode>(object).unwrap().into()
    }

    #[test]
    fn a_block_of_calicos_is_its_nodes_once_it_is_confirmed_and_until_it_is_deleted() {
        let of = |state: &str, deleted: &str| {
            block(
                json!({ "cidr": "10.244.120.64/26", "node": "p", "state": state, "deleted": deleted }),
            )
        };
        let bound = of("confirmed", "false");
        assert_eq!(bound.node, "p");
        assert_eq!(bound.cidrs, ["10.244.120.64/26".parse().unwrap()]);
        for other in [
            of("pending", "false"),
            of("confirmed", "true"),
            of("pendingDeletion", "false"),
        ] {
            assert_eq!(other.cidrs, []);
        }
    }

    #[test]
    fn a_node_of_ciliums_serves_all_its_networks() {
        let node = cilium(json!({
            "addresses": [{ "type": "InternalIP", "ip": "192.168.49.3" }],
            "ipam": { "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"], "pools": {} },
        }));
        assert_eq!(node.node, "p-m02");
        let expected = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|net| net.parse().unwrap());
        assert_eq!(node.cidrs, expected);
    }

    #[test]
    fn what_is_not_as_it_should_be_counts_as_absent() {
        for spec in [
            Value::Null,
            json!([]),
            json!("rubbish"),
            json!({ "cidr": 7, "node": {}, "state": "confirmed" }),
            json!({ "cidr": "10.244.0.0/99", "node": "p", "state": "confirmed" }),
        ] {
            assert_eq!(block(spec.clone()).cidrs, [], "{spec}");
        }
        for spec in [
            Value::Null,
            json!({ "ipam": 7 }),
            json!({ "ipam": { "podCIDRs": "10.244.0.0/24" } }),
            json!({ "ipam": { "podCIDRs": [{}, "10.244.0.0/24"] } }),
        ] {
            assert_eq!(cilium(spec.clone()).cidrs, [], "{spec}");
        }
    }
}
