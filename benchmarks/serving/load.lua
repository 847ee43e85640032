-- Each line of the file given after `--` is one body; they are sent in turn, and counted by wrk itself.
-- Arguments: bodies, path, where the figures go, headers as NAME=VALUE.
local ready, at = {}, 0

function init(args)
  local headers = {["Content-Type"] = "application/json"}
  for i = 4, #args do
    local name, value = args[i]:match("^([^=]+)=(.*)$")
    headers[name] = value
  end
  for line in io.lines(args[1]) do
    ready[#ready + 1] = wrk.format("POST", args[2], headers, line)
  end
  at = math.random(#ready) - 1
  figures = args[3]
end

function setup(thread)
  last = thread
end

function request()
  at = at % #ready + 1
  return ready[at]
end

function done(summary, latency, requests)
  local file = assert(io.open(last:get("figures"), "w"))
  local e = summary.errors
  file:write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "max": %.3f, "status": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
  file:close()
end
