SELECT
    households.id,                      -- Integer
    households.street AS address,       -- Text: where to send the form
    count(*) AS members,                -- Integer
    min(born) AS first_born,            -- Date
    array_agg(name ORDER BY name) AS names  -- ARRAY(Text)
FROM households
JOIN residents ON residents.household_id = households.id
WHERE born < :day
GROUP BY households.id
