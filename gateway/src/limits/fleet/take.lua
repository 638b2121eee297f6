-- Checks all descriptors of all scopes and takes from all of them or from none, by this server's clock.
-- KEYS: the instant at which these data began, then a hash for each scope.
-- ARGV: the gateway, milliseconds that its places live unrenewed, then 13 numbers for each scope:
--   1-3 limits of requests, tokens, places; 4-6 needed; 7-9 wanted where there is more; 10-11 requests and tokens given
--   back (negative: used already), in 1/60000; 12 places given back; 13 places held in all, or -1 for as noted.
-- Answer: 1 or 0 for taken or refused, then for each scope requests, tokens and places taken, the levels of requests and
-- tokens in 1/60000 after it, and free places.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], now, 'NX')
-- A scope that is not there has been idle for a minute or was lost with all the others: what a bucket that was empty
-- when these data began would hold by now is right for both.
local born = tonumber(redis.call('GET', KEYS[1]))
local gateway, ttl = ARGV[1], tonumber(ARGV[2])
local scopes, taken = {}, 1

for i = 2, #KEYS do
  local a, known, at = {}, {}, nil
  for j = 1, 13 do a[j] = tonumber(ARGV[2 + (i - 2) * 13 + j]) end
  local flat = redis.call('HGETALL', KEYS[i])
  for j = 1, #flat, 2 do known[flat[j]] = flat[j + 1] end
  at = tonumber(known.at)
  local function level(name, limit, back)
    local value = limit * math.max(0, now - born)
    if at then
      local old = tonumber(known[name .. ':limit'])
      value = math.min(old * 60000, tonumber(known[name]) + old * math.max(0, now - at))
      value = value + (limit - old) * 60000
    end
    return math.min(limit * 60000, value + back)
  end
  local scope = { a = a, requests = level('requests', a[1], a[10]), tokens = level('tokens', a[2], a[11]) }
  scope.at = math.max(now, at or 0)
  local own, others = 0, 0
  for name, value in pairs(known) do
    local holder = string.match(name, '^places:(.*)$')
    if holder then
      if tonumber(known['until:' .. holder] or 0) <= now then
        redis.call('HDEL', KEYS[i], name, 'until:' .. holder)
      elseif holder == gateway then
        own = tonumber(value)
      else
        others = others + tonumber(value)
      end
    end
  end
  if a[13] >= 0 then own = a[13] else own = math.max(0, own - a[12]) end
  scope.own, scope.free = own, a[3] - others - own
  if (a[4] > 0 and a[4] * 60000 > scope.requests) or (a[5] > 0 and a[5] * 60000 > scope.tokens)
    or (a[6] > 0 and a[6] > scope.free) then
    taken = 0
  end
  scopes[i] = scope
end

local answer = { taken }
for i = 2, #KEYS do
  local s, requests, tokens, places = scopes[i], 0, 0, 0
  local a = s.a
  if taken == 1 then
    requests = math.max(0, math.min(a[7], math.floor(s.requests / 60000)))
    tokens = math.max(0, math.min(a[8], math.floor(s.tokens / 60000)))
    places = math.max(0, math.min(a[9], s.free))
  end
  s.requests, s.tokens = s.requests - requests * 60000, s.tokens - tokens * 60000
  s.own, s.free = s.own + places, s.free - places
  local function whole(number) return string.format('%.0f', number) end
  redis.call('HSET', KEYS[i], 'at', whole(s.at), 'requests', whole(s.requests), 'requests:limit', a[1],
    'tokens', whole(s.tokens), 'tokens:limit', a[2])
  if s.own > 0 then
    redis.call('HSET', KEYS[i], 'places:' .. gateway, s.own, 'until:' .. gateway, whole(now + ttl))
  else
    redis.call('HDEL', KEYS[i], 'places:' .. gateway, 'until:' .. gateway)
  end
  -- By then both buckets are full and all places are free, so forgetting the scope changes nothing.
  local missing = 0
  if a[1] > 0 then missing = math.max(missing, (a[1] * 60000 - s.requests) / a[1]) end
  if a[2] > 0 then missing = math.max(missing, (a[2] * 60000 - s.tokens) / a[2]) end
  redis.call('PEXPIRE', KEYS[i], whole(math.max(missing + 60000, ttl + 60000)))
  for _, value in ipairs({ requests, tokens, places, s.requests, s.tokens, s.free }) do
    answer[#answer + 1] = value
  end
end
return answer
