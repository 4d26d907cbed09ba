-- Sends one request for each token drawn at random from a file, or, without a
-- file, with made-up tokens. Its arguments: the file, and the request up to the
-- token.

local size = 43 -- of a token; in the file a line break follows
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
local tokens, count, head
local random = math.random

function init(args)
   head = args[2]
   math.randomseed(os.time())
   if args[1] ~= "" then
      local file = assert(io.open(args[1], "rb"))
      tokens = file:read("*a")
      file:close()
      count = #tokens / (size + 1)
   end
end

local function made_up()
   local letters = {}
   for i = 1, size do
      local at = random(#alphabet)
      letters[i] = alphabet:sub(at, at)
   end
   return table.concat(letters)
end

function request()
   local token
   if tokens then
      local at = (random(count) - 1) * (size + 1)
      token = tokens:sub(at + 1, at + size)
   else
      token = made_up()
   end
   return head .. token .. "\r\n\r\n"
end

-- wrk counts as errors.status the answers of 400 and above.
function done(summary, latency)
   local errors = summary.errors
   print(string.format('{"Requests":%d,"Refused":%d,"Failed":%d,"Duration":%d,"P50":%f,"P99":%f}',
      summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
      summary.duration, latency:percentile(50), latency:percentile(99)))
end
