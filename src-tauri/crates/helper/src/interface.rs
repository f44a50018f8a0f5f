use std::{collections::HashMap, sync::Arc};

use minitunnel_contract::{PROTOCOL, Refusal, WireLease, WireRoute, to_wire};
use zbus::{interface, message::Header, object_server::SignalEmitter};

use crate::{
    asked::{Asked, Number},
    service::Service,
    stale::Stale,
    transaction::Change,
    validate,
};

/// The object that callers see: it reads what they send, and leaves the rest to the [`Service`].
#[derive(Debug)]
pub(crate) struct Interface(pub(crate) Arc<Service>);

#[interface(name = "io.github.minitunnel.Helper1", introspection_docs = false)]
impl Interface {
    async fn apply(
        &self,
        profile: &str,
        routes: Asked<'_>,
        options: HashMap<&str, Number>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<u64, Refusal> {
        let profile = validate::profile(profile)?;
        let after = validate::routes(&routes.0)?;
        let trial = validate::options(&options)?;
        let (call, client) = self.0.enter(&header, true, Some(&profile)).await?;
        if after.is_empty() {
            return self.0.release(client, profile);
        }
        let change = Change {
            client,
            profile,
            after,
            trial,
        };
        self.0.apply(&change, &header, &call).await
    }

    async fn release(
        &self,
        profile: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Refusal> {
        let profile = validate::profile(profile)?;
        let (_call, client) = self.0.enter(&header, false, None).await?;
        self.0.release(client, profile).map(drop)
    }

    async fn confirm(
        &self,
        profile: &str,
        generation: u64,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Refusal> {
        let profile = validate::profile(profile)?;
        let (_call, client) = self.0.enter(&header, false, None).await?;
        let mut registry = self.0.registry();
        registry.confirm(&client.owner, &profile, generation)
    }

    async fn list(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<WireLease>, Refusal> {
        let (_call, client) = self.0.enter(&header, false, None).await?;
        Ok(self.0.registry().list(client.uid))
    }

    async fn cleanup(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<WireRoute>, Refusal> {
        let _call = self.0.enter(&header, false, None).await?;
        let _one = self.0.cleaning.lock().await;
        let removed = self.0.registry().cleanup()?;
        // What came meanwhile is first.
        tokio::task::yield_now().await;
        Ok(to_wire(&removed))
    }

    async fn remove_stale(
        &self,
        stale: Stale<'_>,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Refusal> {
        self.0.remove_stale(&stale, &header).await
    }

    #[zbus(signal)]
    pub(crate) async fn lease_ended(
        to: &SignalEmitter<'_>,
        profile: &str,
        reason: &str,
    ) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn protocol(&self) -> u32 {
        PROTOCOL
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn route_protocol(&self) -> u8 {
        minitunnel_kernel::PROTOCOL
    }
}
