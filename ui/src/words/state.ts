import type { HelperStatus, ProfileStatus, Reach } from "../model";

/** How a state is coloured. */
export type Tone = "ok" | "warn" | "bad" | "off";

/** A state in words. */
export interface Said {
  tone: Tone;
  /** For the list of profiles. */
  short: string;
  /** For the profile's own head. */
  title: string;
  /** Since when, where that is told. */
  since?: number;
}

/** What is to be shown of a profile's tunnel. */
export function said(status: ProfileStatus): Said {
  const { tunnel } = status;
  switch (tunnel.state) {
    case "disconnected": {
      const reason = unreachable(status.profile.reach);
      if (reason) return { tone: "off", short: "No tunnel possible", title: "No tunnel possible" };
      return { tone: "off", short: "Stopped", title: "Stopped" };
    }
    case "connecting":
      return { tone: "warn", short: "Connecting…", title: "Connecting…" };
    case "disconnecting":
      return { tone: "warn", short: "Stopping…", title: "Stopping…" };
    case "connected": {
      const services = counted(status.load_balancers.filter(hasAddress).length, "service");
      return { tone: "ok", short: `Connected, ${services}`, title: "Connected", since: tunnel.since };
    }
    case "blocked": {
      const [first] = tunnel.conflicts;
      const by = first?.other.device ?? first?.profile;
      return { tone: "bad", short: by ? `Blocked by ${by}` : "Blocked", title: "Blocked" };
    }
    case "waiting":
      switch (tunnel.for) {
        case "cluster":
          return { tone: "warn", short: "Waiting for the cluster", title: "Waiting for the cluster" };
        case "consent":
          return { tone: "warn", short: "Needs your consent", title: "Needs your consent" };
        case "dialog":
          return { tone: "warn", short: "Asking for your consent", title: "Asking for your consent" };
        case "lock":
          return { tone: "warn", short: "Waiting for minikube tunnel", title: "Waiting for minikube tunnel" };
      }
    case "failed":
      return failed(tunnel.cause);
  }
}

function failed(cause: string): Said {
  switch (cause) {
    case "reach":
      return { tone: "bad", short: "No tunnel possible", title: "No tunnel possible" };
    case "not_authorized":
      return { tone: "bad", short: "No consent", title: "No consent" };
    case "helper_missing":
      return { tone: "bad", short: "Helper missing", title: "Helper missing" };
    case "fight":
      return { tone: "bad", short: "Routes were removed", title: "Routes were removed" };
    case "profile":
      return { tone: "bad", short: "Profile unreadable", title: "Profile unreadable" };
    default:
      return { tone: "bad", short: "Failed", title: "Failed" };
  }
}

/** Why no route can lead to a cluster, if so. */
export function unreachable(reach: Reach): string | null {
  return reach.reach === "forwarded" || reach.reach === "unsupported" ? reach.reason : null;
}

/** What the picture says of the helper. */
export function helper(status: HelperStatus): string {
  switch (status.helper) {
    case "unasked":
      return "helper not needed yet";
    case "ready":
      return "helper ready";
    case "missing":
      return "helper missing";
  }
}

/** `1 service`, `4 services`, `no services`. */
export function counted(count: number, what: string): string {
  return `${count === 0 ? "no" : count} ${what}${count === 1 ? "" : "s"}`;
}

export function hasAddress(service: { ingress: string[] }): boolean {
  return service.ingress.length > 0;
}
