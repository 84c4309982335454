// Browsers refuse workers of pages that are opened from a folder. The search runs in a hidden frame there.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      this.scope = frame.contentWindow;
      const base = new URL(url, location.href);
      const load = (address) => new Promise((done, failed) => {
        const script = this.scope.document.createElement("script");
        script.onload = done;
        script.onerror = failed;
        script.src = new URL(address, base);
        this.scope.document.head.append(script);
      });
      this.scope.importScripts = async (...addresses) => {
        for (const address of addresses) await load(address);
      };
      this.scope.postMessage = (data) => this.deliver(this, MessageEvent, data);
      this.ready = load(base);
    }
    deliver(target, Kind, data) {
      const event = new Kind("message", { data });
      target.dispatchEvent(event);
      if (target.onmessage && target === this) target.onmessage(event);
    }
    postMessage(data) {
      this.ready.then(() => this.deliver(this.scope, this.scope.MessageEvent, data));
    }
    terminate() {
      this.scope.frameElement.remove();
    }
  };
}
