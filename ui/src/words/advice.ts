import type { ProfileStatus } from "../model";
import { sentence } from "./conflict";
import { unreachable } from "./state";

/** What a user is told to do next. */
export interface Advice {
  tone: "bad" | "warn" | "off";
  title: string;
  text: string;
  /** To be copied. */
  command?: string;
  /** Another try, by its button's name. */
  again?: string;
  /** What a dead tunnel left can be removed. */
  cleanUp?: boolean;
}

/** What is to be said of a profile beside its state; conflicts speak for themselves. */
export function advice(status: ProfileStatus): Advice[] {
  const all = [tunnel(status), ...leftovers(status)];
  return all.filter((each) => each !== null);
}

function tunnel(status: ProfileStatus): Advice | null {
  const { tunnel, profile, cluster } = status;
  const reason = unreachable(profile.reach);
  if (reason) {
    const [why, otherwise] = parted(reason);
    const advice: Advice = { tone: "off", title: "No route leads to this cluster", text: why + otherwise };
    const command = /`([^`]+)`/.exec(reason)?.[1];
    return command ? { ...advice, command } : advice;
  }
  const start = `minikube start -p ${profile.name}`;
  switch (tunnel.state) {
    case "waiting":
      switch (tunnel.for) {
        case "cluster":
          return {
            tone: "warn",
            title: "The cluster does not answer",
            text: `${sentence(tunnel.reason)} The tunnel comes up by itself when the cluster does.`,
            command: start,
          };
        case "consent":
          return {
            tone: "warn",
            title: "Your consent is needed",
            text: "Routes are changed by a small helper that runs as root, so an administrator is asked once.",
            again: "Give consent",
          };
        case "dialog":
          return {
            tone: "warn",
            title: "Answer the dialog",
            text: "Your desktop asks whether minitunnel may change this computer's routes.",
          };
        case "lock": {
          const process = tunnel.pid === null ? "" : ` (process ${tunnel.pid})`;
          return {
            tone: "warn",
            title: "minikube tunnel is running in a terminal",
            text: `It serves this cluster${process}. minitunnel takes over when it ends.`,
          };
        }
      }
    case "failed": {
      const text = sentence(tunnel.message);
      const again = "Try again";
      switch (tunnel.cause) {
        case "reach":
          return { tone: "bad", title: "No route leads to this cluster", text };
        case "not_authorized":
          return { tone: "bad", title: "Consent was not given", text, again };
        case "helper_missing":
          return {
            tone: "bad",
            title: "The helper that changes routes is missing",
            text,
            command: "installers/linux/install",
            again,
          };
        case "helper":
          return { tone: "bad", title: "The routes were refused", text, again };
        case "fight":
          return { tone: "bad", title: "Somebody keeps removing the routes", text, again };
        case "profile":
          return { tone: "bad", title: "The profile can't be read", text };
      }
    }
    case "disconnected":
      if (cluster.cluster !== "stopped") return null;
      return { tone: "off", title: "The cluster does not run", text: sentence(cluster.reason), command: start };
    default:
      return null;
  }
}

function leftovers(status: ProfileStatus): (Advice | null)[] {
  const left = status.left.map(({ service, addresses }) => `${service.namespace}/${service.name} keeps ${addresses.join(", ")}`);
  const kept: Advice | null = left.length
    ? {
        tone: "warn",
        title: "Addresses remain in the cluster",
        text: sentence(`${left.join("; ")}; they go when the cluster is back`),
      }
    : null;
  const records = status.minikube_tunnels.map((each): Advice | null => {
    // A running one is what the tunnel waits for, and is said there.
    if (each.running) return null;
    const { destination, gateway } = each.route;
    return {
      tone: "warn",
      title: "A minikube tunnel died here",
      text: `It (process ${each.pid}) ended without removing its route ${destination} via ${gateway} or its addresses.`,
      cleanUp: true,
    };
  });
  return [kept, ...records];
}

/** The reason, and what the user can do. */
function parted(reason: string): [string, string] {
  const at = reason.indexOf("; ");
  if (at < 0) return [sentence(reason), ""];
  return [sentence(reason.slice(0, at)), ` ${sentence(reason.slice(at + 2))}`];
}
