-- Takes messages from the lists of queues, and records them as unacknowledged.
--
-- What `unacked` holds for a message is `[envelope, exchange, routing key]`. All three are taken
-- from the text of the envelope where kombu wrote it: decoding it here would block the server.
local unacked, index = KEYS[1], KEYS[2]
local now, wanted, width, fair = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local KOMBU = '"delivery_info": {"exchange": "([^"\\]*)", "routing_key": "([^"\\]*)"}, ' ..
  '"priority": %d+, "body_encoding": "base64", "delivery_tag": "([^"\\]+)"}}$'

local function address(item)
  local exchange, routing_key, tag = string.match(string.sub(item, -1024), KOMBU)
  if tag then
    return tag, '"' .. exchange .. '", "' .. routing_key .. '"'
  end
  local ok, message = pcall(cjson.decode, item)
  local properties = ok and type(message) == 'table' and message.properties
  local info = type(properties) == 'table' and properties.delivery_info
  if type(info) == 'table' and type(properties.delivery_tag) == 'string'
      and type(info.exchange) == 'string' and type(info.routing_key) == 'string' then
    return properties.delivery_tag,
      cjson.encode(info.exchange) .. ', ' .. cjson.encode(info.routing_key)
  end
end

local misfits, popped, scores, records, removals, count = {}, {}, {}, {}, {}, 0
local seen = 0

-- An error that names the key, if it is that the key is of another type.
local function named(err, key, kind)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then
    return err
  end
  return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. kind)
end

local function take(list, item)
  local tag, target = address(item)
  if tag then
    scores[#scores + 1] = now
    scores[#scores + 1] = tag
    records[#records + 1] = tag
    records[#records + 1] = '[' .. item .. ', ' .. target .. ']'
  end
  popped[#popped + 1] = list
  popped[#popped + 1] = tag or false
  popped[#popped + 1] = item
end

-- How many there are in each list of one priority.
local function measure(first)
  local lengths, sum = {}, 0
  for place = 0, width - 1 do
    local length = redis.pcall('LLEN', KEYS[first + place])
    if type(length) == 'table' then
      local found = redis.call('TYPE', KEYS[first + place]).ok
      if found == 'list' or found == 'none' then
        return length
      end
      misfits[#misfits + 1] = first + place - 3
      misfits[#misfits + 1] = found
      length = 0
    end
    lengths[place], sum = length, sum + length
  end
  return nil, lengths, sum
end

-- How many to take from each of them, so that queues take turns or the first goes first.
local function share(lengths, left)
  local parts, given = {}, 0
  for place = 0, width - 1 do
    parts[place] = fair and 0 or math.min(lengths[place], left - given)
    given = given + parts[place]
  end
  local found = fair
  while found and given < left do
    found = false
    for place = 0, width - 1 do
      if given < left and parts[place] < lengths[place] then
        found, given, parts[place] = true, given + 1, parts[place] + 1
      end
    end
  end
  return parts, given
end

-- A message is in its queue until its record is written: an error, wherever it comes, leaves the
-- messages where they were.
for first = 3, #KEYS, width do
  if count >= wanted then
    break
  end
  seen = first + width - 3
  local err, lengths, sum = measure(first)
  if err then
    return err
  end
  if sum > 0 then
    local parts, given = share(lengths, wanted - count)
    local found, deepest = {}, 0
    for place = 0, width - 1 do
      if parts[place] > 0 then
        found[place] = redis.call('LRANGE', KEYS[first + place], -parts[place], -1)
        removals[#removals + 1] = KEYS[first + place]
        removals[#removals + 1] = -parts[place] - 1
        deepest = math.max(deepest, parts[place])
      end
    end
    if fair then
      for turn = 0, deepest - 1 do
        for place = 0, width - 1 do
          if turn < parts[place] then
            take(place, found[place][parts[place] - turn])
          end
        end
      end
    else
      for place = 0, width - 1 do
        for at = parts[place], 1, -1 do
          take(place, found[place][at])
        end
      end
    end
    count = count + given
  end
end

if count > 0 then
  -- A full server refuses what takes memory, unless the script has begun to write: taking messages
  -- is what frees it. This removes nothing, and fails for whoever may not remove.
  redis.call('LTRIM', removals[1], 0, -1)
end
if #scores > 0 then
  local held = redis.pcall('HLEN', unacked)
  if type(held) == 'table' then
    return named(held, unacked, 'hash')
  end
  local added = redis.pcall('ZADD', index, unpack(scores))
  if type(added) == 'table' then
    return named(added, index, 'zset')
  end
  redis.call('HSET', unacked, unpack(records))
end
for at = 1, #removals, 2 do
  redis.call('LTRIM', removals[at], 0, removals[at + 1])
end
return {seen, misfits, popped}
