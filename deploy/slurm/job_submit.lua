-- Asks the gate of Tonnage whether a job may be submitted, by what is left of its account's budget.
--
-- Goes beside slurm.conf, with JobSubmitPlugins=lua there. It needs Lua 5.1 or later and lua-socket, and `tonnage-agent gate` on the
-- same machine. docs/operations.md has the steps, docs/gate.md what is promised.
--
-- It runs within slurmctld, which does nothing else meanwhile: so it asks over a UNIX socket, waits no longer than it is told, starts
-- no process, and speaks no HTTP. Whatever goes wrong here, the policy decides.
--
-- A script of the site's own goes beside it as job_submit_site.lua: it is called first, and the gate is asked about what it made of
-- the job. Slurm reads all of it again when this file changes (touch it after a change of one of the others).

local config = {
    -- Where the gate answers.
    socket = "/run/tonnage-gate/gate.sock",
    -- How long a submission waits for it, in milliseconds. The gate's own --deadline-ms has to be shorter.
    deadline_ms = 500,
    -- Where it does not answer: "closed" refuses the jobs that it is asked about, "open" lets them in and has them booked later.
    policy = "closed",
    -- The account of jobs that name none, root's too, where their user has no default account in Slurm. Without it such a job is its
    -- user's, and is let in only if a budget is bound to that user.
    default_account = nil,
    -- Jobs without GPUs too: then the gate has to be told --cpu-jobs, and each job needs an account with a budget and a time limit.
    cpu_jobs = false,
    -- Say nothing to users whose jobs are let in.
    quiet = false,
}

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local function is_there(path)
    local file = io.open(path)
    if file then file:close() end
    return file ~= nil
end

-- Settings of the same names in a file beside this one, so that this one may be replaced: return { policy = "open" }
if is_there(folder .. "tonnage_gate.lua") then
    for name, value in pairs(assert(loadfile(folder .. "tonnage_gate.lua"))()) do config[name] = value end
end

-- The site's own functions, in a place of their own so that theirs and ours may have the same names. A script that cannot be loaded
-- is an error, as it would be without us.
local function load_site()
    local path = folder .. "job_submit_site.lua"
    local site = setmetatable({}, { __index = _G })
    if not is_there(path) then return site end
    local chunk
    if setfenv then
        chunk = setfenv(assert(loadfile(path)), site)
    else
        chunk = assert(loadfile(path, "t", site))
    end
    chunk()
    return site
end

local site = load_site()

local has_unix, unix = pcall(require, "socket.unix")
local has_socket, socket = pcall(require, "socket")
if not (has_unix and has_socket) then
    slurm.log_error("tonnage: lua-socket is missing, so that the gate cannot be asked: the policy is %s", config.policy)
end

local TEXTS = { "account", "partition", "array_inx", "tres_per_job", "tres_per_node", "tres_per_socket", "tres_per_task" }
local NUMBERS = {
    "time_limit", "min_nodes", "max_nodes", "num_tasks", "ntasks_per_node", "sockets_per_node", "ntasks_per_tres",
}
-- Whose change may be more; the time limit's, too.
local MORE = { "min_nodes", "max_nodes", "num_tasks" }
if config.cpu_jobs then
    for _, name in ipairs({ "cpus_per_task", "min_cpus", "min_mem_per_cpu", "min_mem_per_node" }) do
        NUMBERS[#NUMBERS + 1], MORE[#MORE + 1] = name, name
    end
end
-- What decides how many GPUs there are.
local GPUS = { "tres_per_job", "tres_per_node", "tres_per_socket", "tres_per_task" }
-- Slurm's numbers for "not set", of 16 and 32 bits.
local NOT_SET = { [65534] = true, [4294967294] = true }
-- Slurm takes comments of some length only; a mark without the ask is better than none.
local MARK_BYTES_MAX = 900

-- Of 64 bits it is not exact here; nothing else is as large.
local LARGEST = 2 ^ 63

local function is_set(value)
    if type(value) == "number" and value >= LARGEST then return false end
    return value ~= nil and value ~= "" and not NOT_SET[value]
end

local function encoded(value)
    if type(value) == "number" then return string.format("%.0f", value) end
    return (tostring(value):gsub("[^%w%._:/,@+=%-]", function(c) return string.format("%%%02x", c:byte()) end))
end

local function token()
    local file = assert(io.open("/dev/urandom", "rb"))
    file:setvbuf("no")
    local bytes = file:read(16)
    file:close()
    return (bytes:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

-- One line to the gate, one line back; nil and why, if there is none in time.
local function ask(line)
    if not (has_unix and has_socket) then return nil, "lua-socket is missing" end
    local ends = socket.gettime() + config.deadline_ms / 1000
    local make = type(unix) == "table" and (unix.stream or unix.tcp) or unix
    local client, why = make()
    if not client then return nil, why end
    local function left()
        client:settimeout(math.max(ends - socket.gettime(), 0), "t")
    end
    left()
    local done
    done, why = client:connect(config.socket)
    if done then
        left()
        done, why = client:send(line .. "\n")
    end
    local answer
    if done then
        left()
        answer, why = client:receive("*l")
    end
    client:close()
    return answer, why
end

-- The partition's times, for jobs without a limit of their own; and the partition, if none is named.
local function partition_of(name, part_list)
    local first = name and name:match("^[^,]+")
    for known, part in pairs(part_list or {}) do
        if known == first or (not first and part.flag_default == 1) then return known, part end
    end
    return first, {}
end

local function add(fields, prefix, of)
    for _, name in ipairs(TEXTS) do
        if is_set(of[name]) then fields[#fields + 1] = prefix .. name .. "=" .. encoded(of[name]) end
    end
    for _, name in ipairs(NUMBERS) do
        if is_set(of[name]) then fields[#fields + 1] = prefix .. name .. "=" .. encoded(of[name]) end
    end
end

local function wants_gpus(job_desc)
    for _, name in ipairs(GPUS) do
        if is_set(job_desc[name]) then return true end
    end
    return is_set(job_desc.ntasks_per_tres)
end

-- What nobody but us may write there.
local function without_mark(comment)
    return (tostring(comment or ""):gsub("tonnage:%S*%s*", ""))
end

local function marked(job_desc, word, id, line)
    local mark = "tonnage:" .. word .. ":" .. id .. ":"
    local whole = mark .. line:gsub(" ", ";")
    if #whole <= MARK_BYTES_MAX then mark = whole end
    local rest = without_mark(job_desc.admin_comment)
    job_desc.admin_comment = rest == "" and mark or (mark .. " " .. rest)
end

-- How a job may be let in, besides for an escrow.
local WORDS = { held = true, open = true, none = true }

-- The verdict on a line: true or false, the mark's word, and what to say.
local function verdict(line)
    local answered, answer, why = pcall(ask, line)
    if not answered then answer, why = nil, answer end
    local yes, rest = tostring(answer or ""):match("^(%a+) ?(.*)$")
    local word, text = (rest or ""):match("^(%S+) ?(.*)$")
    -- Whoever answers something else is no gate: nothing of it goes into a mark.
    if yes == "ok" and word and (WORDS[word] or word:match("^escrow=txn_%x+=[%d.]+$")) then
        return true, word, text
    elseif yes == "no" then
        return false, nil, rest
    end
    slurm.log_error("tonnage: the gate at %s did not answer: %s", config.socket, tostring(why or answer))
    if config.policy == "open" then
        return true, "open", "tonnage: not checked, since the gate does not answer now"
    end
    return false, nil, "tonnage: refused, since the gate does not answer now; try again later"
end

local function submit(job_desc, part_list)
    if job_desc.admin_comment and job_desc.admin_comment ~= "" then
        job_desc.admin_comment = without_mark(job_desc.admin_comment)
    end
    if not (config.cpu_jobs or wants_gpus(job_desc)) then return slurm.SUCCESS end
    if not is_set(job_desc.account) and not is_set(job_desc.default_account) and config.default_account then
        job_desc.account = config.default_account
    end
    local partition, part = partition_of(job_desc.partition, part_list)
    local id = token()
    local fields = { "submit", "token=" .. id, "user=" .. encoded(job_desc.user_name or job_desc.user_id) }
    add(fields, "", job_desc)
    if not is_set(job_desc.account) and is_set(job_desc.default_account) then
        fields[#fields + 1] = "account=" .. encoded(job_desc.default_account)
    end
    if not is_set(job_desc.partition) and partition then fields[#fields + 1] = "partition=" .. encoded(partition) end
    if not is_set(job_desc.time_limit) or job_desc.time_limit == slurm.INFINITE then
        for _, name in ipairs({ "default_time", "max_time" }) do
            if is_set(part[name]) then fields[#fields + 1] = "partition_" .. name .. "=" .. encoded(part[name]) end
        end
    end
    local line = table.concat(fields, " ")
    local may, word, text = verdict(line)
    if may and word ~= "none" then marked(job_desc, word, id, line) end
    if text and text ~= "" and not (may and config.quiet) then slurm.log_user("%s", text) end
    return may and slurm.SUCCESS or slurm.ESLURM_ACCOUNTING_POLICY
end

-- More time or more GPUs (or CPUs and memory), or another account, is asked for; all else is not ours.
local function modify(job_desc, job_rec)
    local changes = is_set(job_desc.account) or is_set(job_desc.time_limit) or wants_gpus(job_desc)
    for _, name in ipairs(MORE) do changes = changes or is_set(job_desc[name]) end
    if not changes or not (config.cpu_jobs or wants_gpus(job_desc) or wants_gpus(job_rec)) then return slurm.SUCCESS end
    local job = job_rec.job_id
    if is_set(job_rec.array_job_id) and job_rec.array_job_id > 0 then job = job_rec.array_job_id end
    local fields = { "modify", "token=" .. token(), "job=" .. encoded(job) }
    fields[#fields + 1] = "user=" .. encoded(job_rec.user_name or job_rec.user_id)
    add(fields, "", job_desc)
    add(fields, "was.", job_rec)
    local tasks = job_rec.array_task_cnt
    if is_set(tasks) and tasks > 1 then fields[#fields + 1] = string.format("was.array_inx=1-%.0f", tasks) end
    local may, _, text = verdict(table.concat(fields, " "))
    -- Slurm shows users nothing of what a plugin says here.
    if text and text ~= "" then slurm.log_info("job %s: %s", encoded(job), text) end
    return may and slurm.SUCCESS or slurm.ESLURM_ACCOUNTING_POLICY
end

-- An error of ours is no reason to let work in, nor to stop slurmctld.
local function guarded(decide, ...)
    local well, code = pcall(decide, ...)
    if well then return code end
    slurm.log_error("tonnage: %s", tostring(code))
    return config.policy == "open" and slurm.SUCCESS or slurm.ERROR
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    if site.slurm_job_submit ~= slurm_job_submit and site.slurm_job_submit then
        local code = site.slurm_job_submit(job_desc, part_list, submit_uid)
        if code ~= slurm.SUCCESS then return code end
    end
    return guarded(submit, job_desc, part_list)
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    if site.slurm_job_modify ~= slurm_job_modify and site.slurm_job_modify then
        local code = site.slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
        if code ~= slurm.SUCCESS then return code end
    end
    return guarded(modify, job_desc, job_rec)
end

slurm.log_info("tonnage: %s are asked for at %s", config.cpu_jobs and "all jobs" or "jobs with GPUs", config.socket)
return slurm.SUCCESS
